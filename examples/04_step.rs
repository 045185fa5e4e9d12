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

    println!("{}\n", dam.step()?);
    println!("{}\n", dam.train(10)?);

    // A look after every step: here until the loss has halved, or 100 steps.
    let first = dam.loss()?.total;
    let report = dam.train_with(100, |step| match step.total < first / 2.0 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })?;
    println!("{report}");
    Ok(())
}
