//! step and train: move the coefficients, look after every step, stop and go on.
//!
//! ```text
//! cargo run --release --example 04_step
//! ```

use std::ops::ControlFlow;

use dam_prelude::{Columns, Result, load};

fn main() -> Result<()> {
    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    models.settings.lr = 1e-2;
    models.settings.batch_size = 8;
    let dam = models.wrap(Columns::default())?;

    let first = dam.step()?;
    println!("{first}\n");
    println!("{}\n", dam.train(2)?);

    // A look after every step: here until the merge is twice as close to its sources as it was.
    let kl = |terms: &[(String, f64)]| terms.iter().filter(|(name, _)| name.starts_with("kl.")).map(|(_, x)| x).sum::<f64>();
    let before = kl(&first.terms);
    let report = dam.train_with(100, |step| match kl(&step.terms) < before / 2.0 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })?;
    println!("{report}");
    Ok(())
}
