//! bake, save and open: writes a checkpoint, and a session to resume later.
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

    // The coefficients, the optimiser state and the locations of sources and data: training resumes
    // after `open`.
    let session = directory.with_extension("session.safetensors");
    println!("{}\n", dam.save(&session)?);
    let dam = Dam::open(&session)?;
    dam.train(5)?;

    // The model card includes the scores. An existing directory is replaced only with `force`.
    println!("{}\n", dam.eval(&[])?);
    println!("{}", dam.bake_with(&directory, &Bake { force: true, ..Bake::default() })?);

    // A baked merge is a source like any other.
    println!("\n{}", load([directory.display().to_string()])?);
    Ok(())
}
