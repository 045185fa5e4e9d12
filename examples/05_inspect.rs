//! inspect: shows the coefficients of one tensor, a layer, or all.
//!
//! ```text
//! cargo run --release --example 05_inspect
//! ```

use dam_prelude::{Columns, Result, load};

fn main() -> Result<()> {
    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    models.settings.lr = 1e-2;
    models.settings.batch_size = 8;
    let dam = models.wrap(Columns::default())?;
    dam.train(20)?;

    // A glob, or a part of a name.
    println!("{}\n", dam.inspect("*.mlp.*")?);
    // One tensor, with the columns in which the sources differ most.
    println!("{}\n", dam.inspect("model.layers.2.self_attn.o_proj.weight")?);
    // The numbers themselves: sources x columns.
    let c = dam.coefficients("model.norm.weight")?;
    println!(
        "the first four columns of model.norm.weight: {:?}",
        c.narrow(1, 0, 4)?.to_vec2::<f32>()?
    );
    Ok(())
}
