//! load: opens the models to merge, and lists them.
//!
//! ```text
//! cargo run --release --example 01_load
//! ```

use dam_prelude::{Result, load};

fn main() -> Result<()> {
    // Built-in names here; directories with config.json and *.safetensors work the same way.
    let mut models = load(["ja=builtin:japanese", "builtin:math"])?;
    println!("{models}");

    // Built-in models come with data. For other sources, set the data they were tuned on:
    let examples = models.data("math", "builtin:math")?;
    println!("math has {examples} training examples");

    // Models that cannot be merged are rejected, with the reason and a hint.
    let error = models.and_load(["/no/such/model"]).unwrap_err();
    println!("\n{error:?}");
    Ok(())
}
