//! A merge as it is to be made: for each of its tensors what goes in and which method, with its parameters, merges
//! it. Nothing is made yet; [`Prepared`] makes a tensor, or rows of it, when asked.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{Blend, Method, Operands};
use crate::checkpoint::{Architecture, Buffer, Restacked, Source, Values};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::Weights;

/// A merge to be made.
pub(crate) struct Plan {
    /// The name of its method.
    pub method: &'static str,
    /// In the order of computation.
    pub tensors: Vec<Planned>,
    /// What is merged, in the order of the weights, the base apart.
    pub sources: Vec<Source>,
    /// What they are measured from, where the method does that.
    pub base: Option<Source>,
    /// All that goes in; the first that has a file gives it to the merge.
    pub models: Vec<Source>,
    /// Whose configuration the merge has.
    pub configured: Source,
    /// What is copied as it is stored: whole numbers and truth values.
    pub buffers: BTreeMap<String, Buffer>,
    /// Layers that are stacked anew.
    pub restacked: Option<Restacked>,
    /// Whose tokenizer it has; none: that of the base or of the first source.
    pub tokenizer: Option<Source>,
    /// What a recipe wants written: `f32`, `f16` or `bf16`.
    pub dtype: Option<&'static str>,
    /// The recipe as a person would write it.
    pub recipe: String,
    /// What a reader should know of it.
    pub notes: Vec<String>,
}

/// A tensor to be made.
pub(crate) struct Planned {
    /// What goes in; its spec is that of the merged tensor.
    pub operands: Operands,
    /// What merges it.
    pub method: Arc<dyn Method>,
}

impl Plan {
    /// The tensor `name`.
    pub fn tensor(&self, name: &str) -> Result<&Planned> {
        let found = self.tensors.iter().find(|t| t.operands.spec().name == name);
        found.ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }

    /// What the merged model is.
    ///
    /// # Errors
    /// A family or configuration that cannot be run here.
    pub fn architecture(&self) -> Result<&Architecture> {
        match &self.restacked {
            None => self.configured.architecture(),
            Some(Restacked { architecture: Some(architecture), .. }) => Ok(architecture),
            Some(restacked) => {
                self.configured.architecture()?;
                let file = self.configured.path().join("config.json");
                let unknown = || Architecture::unknown(&file, self.configured.family());
                Err(Architecture::parse(&file, &restacked.config).err().unwrap_or_else(unknown))
            }
        }
    }

    /// The merged weights in `dtype`, each made when it is asked for.
    pub fn weights<'a>(&'a self, device: &'a Device, dtype: DType) -> PlanWeights<'a> {
        let prepared = self.tensors.iter().map(|t| (t.operands.spec().name.as_str(), (t, OnceLock::new()))).collect();
        PlanWeights { prepared, device, dtype }
    }
}

impl Planned {
    /// Looks at what goes in, as much as the method needs.
    ///
    /// # Errors
    /// A tensor that it cannot merge, or a stop.
    pub fn prepare(&self) -> Result<Prepared<'_>> {
        let blend = self.method.prepare(&self.operands);
        // After a stop not all was looked at.
        interrupt::check()?;
        Ok(Prepared { operands: &self.operands, blend: blend? })
    }

    /// Its merged elements, in pieces.
    ///
    /// # Errors
    /// As for [`Planned::prepare`].
    pub fn values(&self) -> Result<Values<'_>> {
        let prepared = self.prepare()?;
        Ok(Box::new(move |start, out| prepared.fill(start, out)))
    }
}

/// A tensor that can be made in pieces, in any order, on any thread.
pub(crate) struct Prepared<'a> {
    operands: &'a Operands,
    blend: Box<dyn Blend>,
}

impl Prepared<'_> {
    /// Fills `out` with merged elements from `start` on.
    pub fn fill(&self, start: usize, out: &mut [f32]) {
        self.operands.merge(&*self.blend, start, out);
    }

    /// All of it, f32, on the CPU.
    fn tensor(&self) -> Result<Tensor> {
        const PIECE: usize = 1 << 13;
        let mut values = vec![0f32; self.operands.elements()];
        values.par_chunks_mut(PIECE).enumerate().for_each(|(i, out)| self.fill(i * PIECE, out));
        Ok(Tensor::from_vec(values, self.operands.spec().shape.as_slice(), &Device::Cpu)?)
    }

    /// The rows `ids`, f32, on the CPU.
    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let columns = self.operands.columns();
        let rows = self.operands.elements() / columns;
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            return Err(candle_core::Error::Msg(format!("there is no row {id} of {rows}")).into());
        }
        let mut values = vec![0f32; ids.len() * columns];
        values.par_chunks_mut(columns).zip(ids).for_each(|(out, id)| self.fill(*id as usize * columns, out));
        Ok(Tensor::from_vec(values, (ids.len(), columns), &Device::Cpu)?)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.operands.release();
    }
}

/// The weights of a merge that is not written: each is made when it is asked for and not kept; what the method
/// found out about it is.
pub(crate) struct PlanWeights<'a> {
    prepared: BTreeMap<&'a str, (&'a Planned, OnceLock<Prepared<'a>>)>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> PlanWeights<'a> {
    fn prepared(&self, name: &str) -> Result<&Prepared<'a>> {
        let (planned, kept) = self.prepared.get(name).ok_or_else(|| Error::NoMatch { pattern: name.into() })?;
        match kept.get() {
            Some(prepared) => Ok(prepared),
            None => {
                let prepared = planned.prepare()?;
                Ok(kept.get_or_init(|| prepared))
            }
        }
    }
}

impl Weights for PlanWeights<'_> {
    fn weight(&self, name: &str) -> Result<Tensor> {
        Ok(self.prepared(name)?.tensor()?.to_device(self.device)?.to_dtype(self.dtype)?)
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_device(&Device::Cpu)?.to_vec1::<u32>()?;
        Ok(self.prepared(name)?.rows(&ids)?.to_device(self.device)?.to_dtype(self.dtype)?)
    }
}
