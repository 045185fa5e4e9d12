//! `mix TENSOR|GLOB... SOURCE=VALUE|SOURCE=FACTORx... | like=SOURCE`

use serde_json::{Map, json};

use super::kind::LIKE;
use super::prelude::*;
use crate::Amount;
use crate::show::MixReport;

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[one(Kind::Pattern), some(Kind::SourceAmount)],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "mix",
        "set or scale coefficients by hand, in the layers and tensors that a pattern selects; like=SOURCE makes them those of a source",
        "mix layers.0-1 math=1.2x",
        |arguments| Ok(Box::new(read(arguments)?)),
    )
};

struct Mix {
    pattern: String,
    change: Change,
}

enum Change {
    /// Amounts by source.
    To(Vec<(String, Amount)>),
    Like(String),
}

fn read(arguments: &Arguments) -> Result<Mix> {
    let pattern = arguments.text(0);
    let given: Vec<(&str, &str)> =
        arguments.words(1).iter().filter_map(|word| word.rsplit_once('=')).collect();
    let change = match given.as_slice() {
        [(LIKE, source)] => Change::Like((*source).into()),
        all if all.iter().any(|(name, _)| *name == LIKE) => {
            return refuse(
                "`like` sets the coefficients of every source",
                "give like=SOURCE alone, or SOURCE=VALUE for some sources",
            );
        }
        all => {
            let amount = |(name, value): &(&str, &str)| Ok(((*name).to_owned(), value.parse()?));
            Change::To(all.iter().map(amount).collect::<Result<_>>()?)
        }
    };
    Ok(Mix { pattern, change })
}

impl Mix {
    fn apply(&self, dam: &crate::Dam) -> Result<MixReport> {
        match &self.change {
            Change::To(amounts) => dam.mix(&self.pattern, amounts),
            Change::Like(source) => dam.mix_like(&self.pattern, source),
        }
    }
}

impl Command for Mix {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let merged = context.merged.clone();
        let dam = context.trainee()?.clone();
        let report = self.apply(&dam).inspect_err(|_| context.merged = merged)?;
        let sources: Map<_, _> = (report.sources.iter())
            .map(|s| (s.name.clone(), json!({"before": s.before, "after": s.after})))
            .collect();
        Ok(Reply::shown(&report, json!({"tensors": report.tensors, "sources": sources})))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.dam()?;
        code.solves();
        code.show(match &self.change {
            Change::Like(source) => format!("dam.mix_like({:?}, {source:?})?", self.pattern),
            Change::To(amounts) => {
                let one = |(name, amount): &(String, Amount)| {
                    format!("({name:?}, dam_prelude::Amount::{amount:?})")
                };
                let all: Vec<String> = amounts.iter().map(one).collect();
                format!("dam.mix({:?}, &[{}])?", self.pattern, all.join(", "))
            }
        });
        Ok(())
    }
}
