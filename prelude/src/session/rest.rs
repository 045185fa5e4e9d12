//! What a multimodal model has beside the decoder of its text: it does not train, and goes into what is baked as
//! [`Rest`] says.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Session;
use crate::checkpoint::Source;
use crate::coefficients::Rest;
use crate::error::{Error, Result};
use crate::methods::{Linear, Method, Operands, Passthrough, Planned};

impl Session {
    /// The tensors beside the decoder, each with what makes it.
    ///
    /// # Errors
    /// The base model's are asked for, and none is marked.
    pub(super) fn rest(&self) -> Result<Vec<Planned>> {
        let rest = self.sources[0].rest();
        if rest.is_empty() {
            return Ok(Vec::new());
        }
        let (givers, method): (Vec<&Source>, Arc<dyn Method>) = match self.merge.wrap.options.rest {
            Rest::Average => (self.sources.iter().collect(), Arc::new(Linear::default())),
            Rest::First => (vec![&self.sources[0]], Arc::new(Passthrough::default())),
            Rest::Base => {
                let what = "the tensors beside the decoder are to be those of the base model, and none is marked".to_owned();
                let base = self.models.base().ok_or(Error::Sources { what, hint: "load base=SOURCE too, or rest=average" })?;
                (vec![base], Arc::new(Passthrough::default()))
            }
        };
        let names: Vec<String> = givers.iter().map(|s| s.name().to_owned()).collect();
        let planned = rest.iter().map(|spec| {
            let views = givers.iter().map(|s| s.view(&spec.name).cloned()).collect::<Result<_>>()?;
            Ok(Planned { operands: Operands::new(spec.clone(), names.clone(), views, None), method: method.clone() })
        });
        planned.collect()
    }

    /// What becomes of them, for a reader; none where there are none.
    pub(super) fn rest_note(&self) -> Option<String> {
        let rest = self.sources[0].rest();
        let parts: BTreeSet<&str> = rest.iter().filter_map(|spec| spec.name.split('.').next()).collect();
        let parts = parts.into_iter().collect::<Vec<_>>().join(", ");
        let whose = match self.merge.wrap.options.rest {
            Rest::Average => "the average of the sources'".to_owned(),
            Rest::Base => "the base model's".to_owned(),
            Rest::First => format!("those of `{}`", self.sources[0].name()),
        };
        (!rest.is_empty()).then(|| format!("{} tensors beside the text decoder ({parts}) do not train: they are {whose}", rest.len()))
    }
}
