//! Where a check runs: the device in f32 or bf16, or the reference, which is always the fused CPU
//! path in f32. Both sides compute with the same numbers, for checks in bf16 rounded to bf16.

use anyhow::{Context, Result};
use dam_prelude::candle_core::{DType, Device, Tensor, Var};
use dam_prelude::{Models, Settings, load};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::arguments::Kind;

/// A side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The fused CPU path.
    Reference,
    /// The device that is checked.
    Device,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Reference => "reference",
            Side::Device => "device",
        }
    }
}

/// A side of a check, with its device.
pub struct Target {
    pub side: Side,
    kind: Kind,
    half: bool,
    pub device: Device,
    /// The dtype of the computation.
    pub dtype: DType,
}

impl Target {
    /// Opens the device of `side`, for a check in bf16 if `half`.
    pub fn open(side: Side, kind: Kind, half: bool) -> Result<Self> {
        let kind = if side == Side::Reference { Kind::Cpu } else { kind };
        let mut target = Self { side, kind, half, device: Device::Cpu, dtype: DType::F32 };
        (target.device, target.dtype) = target.settings().device_and_dtype(&[])?;
        Ok(target)
    }

    /// The settings of a session here.
    pub fn settings(&self) -> Settings {
        let half = self.half && self.side == Side::Device;
        Settings {
            device: self.kind.name().into(),
            dtype: if half { "bf16" } else { "f32" }.into(),
            ..Settings::default()
        }
    }

    /// Loads sources, with the settings of this target.
    pub fn load(&self, sources: &[String]) -> Result<Models> {
        let mut models = load(sources)?;
        models.settings = self.settings();
        Ok(models)
    }

    /// Values in -1.5..1.5, the same on both sides; f32, on the CPU.
    pub fn values(&self, shape: &[usize], seed: u64) -> Result<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| rng.random_range(-1.5..1.5)).collect();
        let values = Tensor::from_vec(values, shape, &Device::Cpu)?;
        if self.half { Ok(values.to_dtype(DType::BF16)?.to_dtype(DType::F32)?) } else { Ok(values) }
    }

    /// The same values on the device, in its dtype.
    pub fn tensor(&self, shape: &[usize], seed: u64) -> Result<Tensor> {
        self.put(&self.values(shape, seed)?)
    }

    /// Copies `values` to the device, in its dtype.
    pub fn put(&self, values: &Tensor) -> Result<Tensor> {
        Ok(values.to_dtype(self.dtype)?.to_device(&self.device)?)
    }
}

/// What a check found on one side: tensors by name, and texts. A name is a measure of the check, or
/// `MEASURE/PART`.
#[derive(Default)]
pub struct Found {
    pub tensors: Vec<(String, Tensor)>,
    pub texts: Vec<(String, String)>,
}

impl Found {
    /// Adds a tensor of any dtype and device.
    pub fn add(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let tensor = tensor.detach().to_device(&Device::Cpu)?;
        let wide = if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        // A copy: what an accumulator shows changes with it.
        self.tensors.push((name.into(), tensor.to_dtype(wide)?.force_contiguous()?));
        Ok(())
    }

    /// Adds a tensor given by its elements.
    pub fn add_values(&mut self, name: impl Into<String>, values: Vec<f64>) -> Result<()> {
        let count = values.len();
        self.add(name, &Tensor::from_vec(values, count, &Device::Cpu)?)
    }

    pub fn add_text(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.texts.push((name.into(), text.into()));
    }
}

/// The measures of an operation.
pub const FORWARD: &str = "forward";
pub const BACKWARD: &str = "backward";

/// Computes `f` of the named inputs, and the gradient of every input: of `f` itself if it is a
/// scalar, else of `sum(weights * f)` with fixed weights.
pub fn differentiate(
    target: &Target,
    inputs: &[(&str, Tensor)],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Found> {
    let variables = inputs.iter().map(|(_, x)| Ok(Var::from_tensor(x)?.into_inner()));
    let variables = variables.collect::<Result<Vec<Tensor>>>()?;
    let y = f(&variables)?;
    let mut found = Found::default();
    found.add(FORWARD, &y)?;
    let loss = match y.rank() {
        0 => y,
        _ => (&y * target.tensor(y.dims(), 99)?)?.sum_all()?,
    };
    let gradients = loss.backward()?;
    for ((name, _), variable) in inputs.iter().zip(&variables) {
        let gradient = gradients.get(variable).with_context(|| format!("{name}: no gradient"))?;
        found.add(format!("{BACKWARD}/{name}"), gradient)?;
    }
    Ok(found)
}
