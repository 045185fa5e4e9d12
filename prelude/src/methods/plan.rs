//! The plan of a merge: for each tensor, the operands, the method and its parameters. Nothing is
//! computed until
//! [`Prepared`] computes a tensor, or rows of it, on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{Blend, Method, Operands};
use crate::checkpoint::{Architecture, Buffer, Restacked, Source, TensorSpec, Values};
use crate::device::of_layer;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::Weights;

/// The plan of a merge.
pub(crate) struct Plan {
    /// The name of the method.
    pub method: &'static str,
    /// In the order of computation.
    pub tensors: Vec<Planned>,
    /// The merged sources in the order of their weights, without the base.
    pub sources: Vec<Source>,
    /// The origin of task vectors, if the method uses them.
    pub base: Option<Source>,
    /// All models involved; the first model that has a file provides it.
    pub models: Vec<Source>,
    /// The model whose configuration the merge uses.
    pub configured: Source,
    /// Integer and boolean tensors, copied unchanged.
    pub buffers: BTreeMap<String, Buffer>,
    /// Stacked layers with their new numbers.
    pub restacked: Option<Restacked>,
    /// The model whose tokenizer the merge uses; `None`: the base's or the first source's.
    pub tokenizer: Option<Source>,
    /// The output dtype of a recipe: `f32`, `f16` or `bf16`.
    pub dtype: Option<&'static str>,
    /// The text of the recipe.
    pub recipe: String,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// The plan of a tensor.
pub(crate) struct Planned {
    /// The operands; their spec is that of the merged tensor.
    pub operands: Operands,
    /// The method.
    pub method: Arc<dyn Method>,
}

impl Plan {
    /// Returns the tensor `name`.
    pub fn tensor(&self, name: &str) -> Result<&Planned> {
        let found = self.tensors.iter().find(|t| t.operands.spec().name == name);
        found.ok_or_else(|| Error::NoMatch { pattern: name.into() })
    }

    /// Returns the architecture of the merged model.
    ///
    /// # Errors
    /// A family or configuration that cannot be run.
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

    /// Returns the merged weights in `dtype`, each computed on demand.
    pub fn weights<'a>(&'a self, device: &'a Device, dtype: DType) -> PlanWeights<'a> {
        let prepared = self
            .tensors
            .iter()
            .map(|t| (t.operands.spec().name.as_str(), (t, OnceLock::new())))
            .collect();
        let layers = self.architecture().map_or(0, |a| a.layers);
        PlanWeights { prepared, layers, device, dtype }
    }
}

impl Planned {
    /// Reads the operands as far as the method needs.
    ///
    /// # Errors
    /// The method cannot merge the tensor, or a stop was requested.
    pub fn prepare(&self) -> Result<Prepared<'_>> {
        self.operands.prefetch();
        let blend = self.method.prepare(&self.operands);
        // After a stop, the operands were not read completely.
        interrupt::check()?;
        Ok(Prepared { operands: &self.operands, blend: blend? })
    }

    /// Returns the merged elements, in pieces.
    ///
    /// # Errors
    /// As for [`Planned::prepare`].
    pub fn values(&self) -> Result<Values<'_>> {
        let prepared = self.prepare()?;
        Ok(Box::new(move |start, out| prepared.fill(start, out)))
    }
}

/// A tensor that can be computed in pieces, in any order, on any thread.
pub(crate) struct Prepared<'a> {
    operands: &'a Operands,
    blend: Box<dyn Blend>,
}

impl Prepared<'_> {
    /// Fills `out` with merged elements from `start` on.
    pub fn fill(&self, start: usize, out: &mut [f32]) {
        self.operands.merge(&*self.blend, start, out);
    }

    /// Returns the whole tensor, f32, on the CPU.
    fn tensor(&self) -> Result<Tensor> {
        const BLOCK: usize = 1 << 13;
        let mut values = vec![0f32; self.operands.elements()];
        values.par_chunks_mut(BLOCK).enumerate().for_each(|(i, out)| self.fill(i * BLOCK, out));
        Ok(Tensor::from_vec(values, self.operands.spec().shape.as_slice(), &Device::Cpu)?)
    }

    /// Returns the rows `ids`, f32, on the CPU.
    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let columns = self.operands.columns();
        let rows = self.operands.elements() / columns;
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            return Err(candle_core::Error::Msg(format!(
                "row {id} is out of range: the tensor has {rows} rows"
            ))
            .into());
        }
        let mut values = vec![0f32; ids.len() * columns];
        values
            .par_chunks_mut(columns)
            .zip(ids)
            .for_each(|(out, id)| self.fill(*id as usize * columns, out));
        Ok(Tensor::from_vec(values, (ids.len(), columns), &Device::Cpu)?)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.operands.release();
    }
}

/// The weights of a merge that is not written. Each weight is computed on demand and not kept; its
/// preparation is cached.
pub(crate) struct PlanWeights<'a> {
    prepared: BTreeMap<&'a str, (&'a Planned, OnceLock<Prepared<'a>>)>,
    layers: usize,
    device: &'a Device,
    dtype: DType,
}

impl<'a> PlanWeights<'a> {
    fn prepared(&self, name: &str) -> Result<&Prepared<'a>> {
        let (planned, kept) =
            self.prepared.get(name).ok_or_else(|| Error::NoMatch { pattern: name.into() })?;
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
        let device = of_layer(self.device, TensorSpec::layer_of(name), self.layers);
        Ok(self.prepared(name)?.tensor()?.to_device(&device)?.to_dtype(self.dtype)?)
    }

    fn rows(&self, name: &str, ids: &Tensor) -> Result<Tensor> {
        let ids = ids.to_device(&Device::Cpu)?.to_vec1::<u32>()?;
        Ok(self.prepared(name)?.rows(&ids)?.to_device(self.device)?.to_dtype(self.dtype)?)
    }
}
