//! step and train: update the coefficients, inspect every step, stop and resume.
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

    // Checks every step: trains until the merge is twice as close to its sources.
    let kl = |terms: &[(String, f64)]| {
        terms.iter().filter(|(name, _)| name.starts_with("kl.")).map(|(_, x)| x).sum::<f64>()
    };
    let before = kl(&first.terms);
    let report = dam.train_with(100, |step| {
        if kl(&step.terms) < before / 2.0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    println!("{report}");
    Ok(())
}
