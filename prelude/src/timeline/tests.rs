//! The budget of snapshots in memory.

use super::*;
use crate::syntax::statements;

/// Snapshots beyond the budget move to files, and come back bit for bit.
#[test]
fn snapshots_beyond_the_budget_are_in_files() {
    let run = |context: &mut Context, text: &str| {
        for statement in statements(text).unwrap() {
            context.run(&statement).unwrap();
        }
    };
    let bytes = |context: &Context| -> Vec<usize> {
        let snapshot = |state: &State| {
            state
                .content
                .as_ref()
                .and_then(|k| k.dam.as_ref())
                .map(|(_, snapshot)| snapshot.bytes())
        };
        context.timeline.states.iter().filter_map(snapshot).collect()
    };
    let begin = "load builtin:japanese builtin:math; wrap; step; step; step; step; step";
    let (mut large, mut small) = (Context::default(), Context::default());
    run(&mut large, begin);
    let one = bytes(&large).into_iter().max().unwrap();
    small.timeline.budget = 2 * one;
    run(&mut small, begin);
    assert!(bytes(&large).iter().all(|bytes| *bytes > 0));
    assert!(bytes(&small).iter().sum::<usize>() <= 2 * one);
    for context in [&mut large, &mut small] {
        run(context, "undo 4; step");
    }
    let coefficients = |context: &Context| {
        let name = "model.layers.0.mlp.up_proj.weight";
        context.dam().unwrap().coefficients(name).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(coefficients(&large), coefficients(&small));
    assert_eq!(large.dam().unwrap().history(), small.dam().unwrap().history());
    // The journal takes over snapshots that are in other files.
    let place = tempfile::tempdir().unwrap();
    small.keep(place.path()).unwrap();
    let mut again = Context::recover(place.path()).unwrap().context;
    run(&mut again, "undo 2; redo");
    run(&mut small, "undo 2; redo");
    assert_eq!(coefficients(&again), coefficients(&small));
}
