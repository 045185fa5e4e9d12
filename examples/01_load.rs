//! load: open the models to be merged, and look at them.
//!
//! ```text
//! cargo run --release --example 01_load
//! ```

use dam_prelude::{Result, load};

fn main() -> Result<()> {
    // Built-in names here; directories with config.json and *.safetensors work the same way.
    let mut models = load(["ja=builtin:japanese", "builtin:math"])?;
    println!("{models}");

    // Built-in models bring their data. Any other source is given what it was tuned on:
    let examples = models.data("math", "builtin:math")?;
    println!("math has {examples} examples to teach with");

    // Models that cannot be merged are refused, with the reason and a remedy.
    let error = models.and_load(["/no/such/model"]).unwrap_err();
    println!("\n{error:?}");
    Ok(())
}
