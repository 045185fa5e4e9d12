//! Tensors of a multimodal model outside the text decoder. They are not trained; [`Rest`] sets what
//! `bake` writes for them.

use std::sync::Arc;

use super::Session;
use crate::checkpoint::Source;
use crate::coefficients::Rest;
use crate::error::{Error, Result};
use crate::methods::{Linear, Method, Operands, Passthrough, Planned};

impl Session {
    /// Plans the tensors outside the decoder.
    ///
    /// # Errors
    /// The options ask for the base model's tensors, and no base is marked.
    pub(super) fn rest(&self) -> Result<Vec<Planned>> {
        let rest = self.sources[0].rest();
        if rest.is_empty() {
            return Ok(Vec::new());
        }
        let (providers, method): (Vec<&Source>, Arc<dyn Method>) = match self
            .merge
            .wrap
            .options
            .rest
        {
            Rest::Average => (self.sources.iter().collect(), Arc::new(Linear::default())),
            Rest::First => (vec![&self.sources[0]], Arc::new(Passthrough::default())),
            Rest::Base => {
                let what =
                    "rest=base takes the tensors outside the text decoder from the base model, and none is marked".to_owned();
                let base = self.models.base().ok_or(Error::Sources {
                    what,
                    hint: "mark the base: load base=SOURCE, or wrap with rest=average",
                })?;
                (vec![base], Arc::new(Passthrough::default()))
            }
        };
        let names: Vec<String> = providers.iter().map(|s| s.name().to_owned()).collect();
        let planned = rest.iter().map(|spec| {
            let views =
                providers.iter().map(|s| s.view(&spec.name).cloned()).collect::<Result<_>>()?;
            Ok(Planned {
                operands: Operands::new(spec.clone(), names.clone(), views, None),
                method: method.clone(),
            })
        });
        planned.collect()
    }

    /// Returns a note about these tensors, if there are any.
    pub(super) fn rest_note(&self) -> Option<String> {
        let source = &self.sources[0];
        let what = match self.merge.wrap.options.rest {
            Rest::Average => "averaged over the sources".to_owned(),
            Rest::Base => "taken from the base model".to_owned(),
            Rest::First => format!("taken from `{}`", source.name()),
        };
        source.describe_rest().map(|tensors| {
            format!("{tensors} are not trained but {what} (wrap rest=average|base|first)")
        })
    }
}
