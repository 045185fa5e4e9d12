//! What a multimodal model has beside the decoder of its text: it does not train, and goes into what is baked as
//! [`Rest`] says.

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
        let source = &self.sources[0];
        let what = match self.merge.wrap.options.rest {
            Rest::Average => "averaged over the sources".to_owned(),
            Rest::Base => "taken from the base model".to_owned(),
            Rest::First => format!("taken from `{}`", source.name()),
        };
        source.describe_rest().map(|tensors| format!("{tensors} are not trained but {what} (wrap rest=average|base|first)"))
    }
}
