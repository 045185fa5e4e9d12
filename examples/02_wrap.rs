//! wrap: creates one coefficient per source and weight column, with different starts.
//!
//! ```text
//! cargo run --release --example 02_wrap
//! ```

use dam_prelude::{Columns, Init, Kind, Nonlinearity, Result, load};

fn main() -> Result<()> {
    let models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;

    // Every linear, embedding and norm weight, starting at the average of the sources.
    let dam = models.wrap(Columns::default())?;
    println!("{dam}\n");

    // Only linears, through a tanh, from a seeded random start.
    let columns = Columns {
        f: Nonlinearity::Tanh,
        train: vec![Kind::Linear],
        init: Init::Random,
        seed: 7,
        ..Columns::default()
    };
    let dam = models.wrap(columns)?;
    println!("{dam}\n");
    println!("{}", dam.inspect("model.layers.0.mlp.down_proj.weight")?);
    Ok(())
}
