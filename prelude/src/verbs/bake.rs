//! `bake DIR`, `bake FILE.gguf`

use super::kind::has_suffix;
use super::paths::at_home;
use super::prelude::*;
use crate::Bake;

/// Where a merge is written.
pub(super) const PLACE: Kind = Kind::Either(&[Kind::Directory, Kind::New(GGUF)]);
const GGUF: NewFile = NewFile { place: "FILE", suffixes: &[".gguf"], suggested: Some("") };

/// How a merge is written.
pub(super) const OPTIONS: &[Opt] = &[
    option("dtype", plain!("dtype", ["f32", "f16", "bf16", "q8_0"])),
    option("shard", Kind::Size("5GB")),
    option("as", plain!("as", ["adapter"])),
    option("rank", Kind::Count("16")),
];

/// The rank of an adapter if none is given.
const RANK: usize = 16;

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[one(PLACE)],
        options: OPTIONS,
        flags: &["--force"],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "bake",
        "write the merge as a Hugging Face checkpoint, a LoRA adapter of its base, or a GGUF file (q8_0 is for GGUF); --force replaces an existing one",
        "bake merged",
        |arguments| Ok(Box::new(Output::read(&arguments.text(0), arguments)?)),
    )
};

/// What to write, and how.
pub(super) struct Output {
    pub place: String,
    pub how: Bake,
}

impl Output {
    /// Reads the [`OPTIONS`] of writing to `place`.
    ///
    /// # Errors
    /// Options that contradict each other or `place`.
    pub fn read(place: &str, arguments: &Arguments) -> Result<Self> {
        let is_gguf = has_suffix(place, GGUF.suffixes);
        let is_adapter = arguments.option("as").is_some();
        let (dtype, shard) = (arguments.option("dtype"), arguments.option("shard"));
        if is_gguf && shard.is_some() {
            return refuse(
                "`shard` applies to directories; a GGUF file is a single file",
                "leave it out",
            );
        }
        if !is_gguf && dtype == Some("q8_0") {
            return refuse("`q8_0` needs a GGUF file", "name one: bake FILE.gguf dtype=q8_0");
        }
        if is_adapter && shard.is_some() {
            return refuse(
                "`shard` applies to checkpoints; an adapter is a single file",
                "leave it out",
            );
        }
        let rank = arguments.count("rank");
        if let (Some(rank), false) = (rank, is_adapter) {
            return refuse(
                format!("`rank={rank}` is the rank of an adapter, but the output is a checkpoint"),
                format!("add as=adapter: bake DIR as=adapter rank={rank}"),
            );
        }
        let default = Bake::default();
        let how = Bake {
            dtype: dtype.map(str::to_owned),
            shard_bytes: arguments.bytes("shard").unwrap_or(default.shard_bytes),
            adapter: is_adapter.then_some(rank.unwrap_or(RANK)),
            force: arguments.has("--force"),
        };
        Ok(Self { place: at_home(place), how })
    }

    /// The call that writes it; what exists is replaced.
    pub fn rust(&self) -> String {
        let Bake { dtype, shard_bytes, adapter, .. } = &self.how;
        let mut given = Vec::new();
        given.extend(dtype.as_ref().map(|dtype| ("dtype", format!("Some({dtype:?}.into())"))));
        let is_default = *shard_bytes == Bake::default().shard_bytes;
        given.extend((!is_default).then(|| ("shard_bytes", shard_bytes.to_string())));
        given.extend(adapter.map(|rank| ("adapter", format!("Some({rank})"))));
        given.push(("force", "true".into()));
        let options = fields("Bake", &given, Some("Bake::default()"));
        format!("bake_with({:?}, &{options})", self.place)
    }
}

impl Command for Output {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        match context.latest()? {
            Latest::Dam(dam) => {
                let written = dam.bake_with(&self.place, &self.how)?;
                context.is_saved();
                let note = match dam.start() {
                    _ if dam.steps() > 0 => String::new(),
                    Some(start) => format!("not trained; start: {start}"),
                    None => "not trained: the coefficients have their initial values".into(),
                };
                Ok(Reply::written(&written).and(note))
            }
            Latest::Merged(merged) => {
                Ok(Reply::written(&merged.bake_with(&self.place, &self.how)?))
            }
        }
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let latest = code.latest()?;
        code.show(format!("{latest}.{}?", Output::rust(self)));
        Ok(())
    }

    fn again(&self, statement: &Statement) -> Statement {
        statement.with_force()
    }
}
