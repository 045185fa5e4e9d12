//! loss: compares the merge with each source, term by term.
//!
//! ```text
//! cargo run --release --example 03_loss
//! ```

use dam_prelude::{Columns, Result, load};

fn main() -> Result<()> {
    let models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    let dam = models.wrap(Columns::default())?;
    println!(
        "the paper's objective: KL divergence from each source, and cosine similarity\n{}\n",
        dam.loss()?
    );

    // Every term has a weight; 0 disables it.
    let mut settings = dam.settings();
    settings.weights.mse = 0.1;
    settings.weights.l1 = 1e-6;
    settings.weights.cosine = 0.0;
    settings.batch_size = 4;
    dam.set(settings)?;
    println!("four examples per source, with other terms\n{}", dam.loss()?);
    Ok(())
}
