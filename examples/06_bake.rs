//! bake, save and open: an ordinary checkpoint, and a session to come back to.
//!
//! ```text
//! cargo run --release --example 06_bake [DIR]
//! ```

use std::path::PathBuf;

use dam_prelude::{Bake, Columns, Dam, Result, load};

fn main() -> Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "merged-06".into()));
    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    models.settings.lr = 1e-2;
    models.settings.batch_size = 8;
    let dam = models.wrap(Columns::default())?;
    dam.train(20)?;

    // The coefficients, the optimiser and where everything came from: training goes on after `open`.
    let session = directory.with_extension("session.safetensors");
    println!("{}\n", dam.save(&session)?);
    let dam = Dam::open(&session)?;
    dam.train(5)?;

    // The scores go into the model card. A directory that is there is replaced only when asked.
    println!("{}\n", dam.eval(&[])?);
    println!("{}", dam.bake_with(&directory, &Bake { force: true, ..Bake::default() })?);

    // What was baked is a source like any other.
    println!("\n{}", load([directory.display().to_string()])?);
    Ok(())
}
