//! Handles quantized checkpoints. Only the dtypes of the weights decide, not what config.json says.
//!
//! Plain floats are used as they are, and a leftover `quantization_config` is ignored. Float8
//! weights are multiplied by their scales when read (`storage/float8.rs`). Packed integers (GPTQ,
//! AWQ, bitsandbytes, ...) are an error: merging codes is meaningless.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::archive::{Archive, Buffer};
use crate::checkpoint::storage::{Codes, Float8, power};
use crate::checkpoint::storage::{Stored, View};
use crate::error::{Error, Result};

/// The keys of config.json that describe quantization.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// Suffixes of names that only packed weights have, with the method.
const PACKED: [(&str, &str); 14] = [
    ("qweight", "GPTQ or AWQ"),
    ("qzeros", "GPTQ or AWQ"),
    ("g_idx", "GPTQ"),
    ("weight_packed", "compressed-tensors"),
    ("weight_shape", "compressed-tensors"),
    ("W_q", "HQQ"),
    ("SCB", "bitsandbytes, 8 bits"),
    ("weight_format", "bitsandbytes, 8 bits"),
    ("absmax", "bitsandbytes, 4 bits"),
    ("quant_map", "bitsandbytes, 4 bits"),
    ("codes", "AQLM"),
    ("dense_weights", "SpQR"),
    ("_data", "quanto"),
    ("_blocks", "MXFP4"),
];

/// Scales stored with a packed weight, with the method if the name identifies it. They replace the
/// last part of its name; with a leading dot or underscore, they are appended to it.
const SCALES: [(&str, Option<&str>); 8] = [
    ("SCB", Some("bitsandbytes, 8 bits")),
    (".absmax", Some("bitsandbytes, 4 bits")),
    ("weight_scales", Some("EETQ")),
    ("weight_scale", None),
    ("weight_scale_inv", None),
    ("scales", None),
    ("scale", None),
    ("_scale", None),
];

/// Suffixes of scales and zero points of activations, and of leftover scales of weights that are
/// plain floats.
const DROPPED: [&str; 20] = [
    "input_scale",
    "input_scale_ub",
    "input_zero_point",
    "input_global_scale",
    "input_amax",
    "output_scale",
    "output_zero_point",
    "activation_scale",
    "act_scale",
    "scale_input",
    "k_scale",
    "v_scale",
    "q_scale",
    "prob_scale",
    "kv_scale",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_g_idx",
    "scale_weight",
];

/// The result of [`prepare`].
pub(crate) struct Prepared {
    /// config.json without obsolete keys; `None` if unchanged.
    pub config: Option<Vec<u8>>,
    pub notes: Vec<String>,
}

/// Converts the contents of `archive` to weights, according to `config`, the contents of `file`.
///
/// # Errors
/// Packed weights, unsupported dtypes, and scales that do not fit.
pub(crate) fn prepare(archive: &mut Archive, file: &Path, config: &[u8]) -> Result<Prepared> {
    let json = |e: serde_json::Error| Error::Json { file: file.into(), reason: e.to_string() };
    let mut config: Map<String, Value> = serde_json::from_slice(config).map_err(json)?;
    let quantization = QuantizationConfig::take(&mut config);
    check_packed(archive, quantization.as_ref())?;
    let (codes, mut notes) = (float8(archive, quantization.as_ref())?, Vec::new());
    let dropped =
        if quantization.is_some() || codes > 0 { drop_scales(archive) } else { Vec::new() };
    check_dtypes(archive)?;
    let name = file.display();
    if codes > 0 {
        notes.push(format!(
            "{codes} tensors are stored as float8 and are multiplied by their scales when read"
        ));
    }
    if let Some(quantization) = &quantization {
        let why = if codes > 0 {
            "the baked checkpoint is not quantized"
        } else {
            "its weights are plain floats"
        };
        notes.push(format!(
            "`{}` of `{name}` ({}) is ignored: {why}",
            quantization.key, quantization.method
        ));
    }
    if let [first, ..] = dropped.as_slice() {
        notes.push(format!(
            "{} scales (of activations and similar) are ignored, for example `{first}`",
            dropped.len()
        ));
    }
    let doubles =
        archive.tensors.values().filter(|view| matches!(view.stored, Stored::Double)).count();
    if doubles > 0 {
        notes.push(format!("{doubles} tensors are stored as f64 and are rounded to f32 when read"));
    }
    let config =
        quantization.map(|_| serde_json::to_vec_pretty(&config).map_err(json)).transpose()?;
    Ok(Prepared { config, notes })
}

/// The quantization settings of config.json.
struct QuantizationConfig {
    key: &'static str,
    /// `quant_method`.
    method: String,
    /// Rows and columns per scale.
    block: Option<(usize, usize)>,
}

impl QuantizationConfig {
    /// Removes it from `config` and nested configurations.
    fn take(config: &mut Map<String, Value>) -> Option<Self> {
        let mut found = None;
        for key in KEYS {
            let inner = config
                .values_mut()
                .filter_map(Value::as_object_mut)
                .filter_map(|inner| inner.remove(key));
            let inner: Vec<Value> = inner.collect();
            for value in
                config.remove(key).into_iter().chain(inner).filter(|value| !value.is_null())
            {
                found.get_or_insert_with(|| Self::read(key, &value));
            }
        }
        found
    }

    fn read(key: &'static str, value: &Value) -> Self {
        let bits = || ["load_in_4bit", "load_in_8bit"].iter().any(|key| value[key] == true);
        let method = value["quant_method"].as_str().or_else(|| bits().then_some("bitsandbytes"));
        let groups = value["config_groups"].as_object().into_iter().flatten();
        let structure = groups
            .map(|(_, group)| &group["weights"]["block_structure"])
            .find(|block| block.is_array());
        let block =
            Some(&value["weight_block_size"]).filter(|block| block.is_array()).or(structure);
        let side = |i: usize| {
            block
                .and_then(|block| block[i].as_u64())
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| *n > 0)
        };
        Self {
            key,
            method: method.unwrap_or("no quant_method").to_owned(),
            block: side(0).zip(side(1)),
        }
    }
}

/// The last part of a tensor's name, and what precedes it, including the dot.
fn parts(name: &str) -> (&str, &str) {
    let at = name.rfind('.').map_or(0, |at| at + 1);
    name.split_at(at)
}

fn is_whole(dtype: Dtype) -> bool {
    use Dtype::{I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// Returns an error for the first packed tensor.
fn check_packed(archive: &Archive, quantization: Option<&QuantizationConfig>) -> Result<()> {
    let has = |name: &str| archive.tensors.contains_key(name) || archive.buffers.contains_key(name);
    // Exponents of float8 blocks are bytes too.
    let of_float8 = |name: &str| {
        let weight = name.strip_suffix("_scale_inv").or_else(|| name.strip_suffix("_scale"));
        let weight = weight.and_then(|weight| archive.buffers.get(weight));
        weight.is_some_and(|weight| matches!(weight.dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2))
    };
    let suspects = archive
        .buffers
        .iter()
        .filter(|(name, buffer)| buffer.dtype != Dtype::U8 || !of_float8(name));
    for (name, buffer) in suspects {
        let (stem, last) = parts(name);
        let known = PACKED
            .iter()
            .find(|(end, _)| last == *end || (end.starts_with('_') && last.ends_with(end)));
        let small = matches!(buffer.dtype, Dtype::F4 | Dtype::F6_E2M3 | Dtype::F6_E3M2);
        let beside = |end: &str| {
            has(&if end.starts_with(['.', '_']) {
                format!("{name}{end}")
            } else {
                format!("{stem}{end}")
            })
        };
        let scale = SCALES.iter().find(|(end, _)| beside(end));
        // Masks and positions are integers too.
        let harmless =
            last == "position_ids" || last == "token_type_ids" || last == "num_batches_tracked";
        let is_mask = last.contains("mask") || (last == "bias" && buffer.shape.len() > 2);
        let is_weight = last == "weight" || (buffer.shape.len() > 1 && !harmless && !is_mask);
        let is_packed = if is_whole(buffer.dtype) {
            known.is_some() || (is_weight && (scale.is_some() || quantization.is_some()))
        } else {
            small
        };
        if is_packed {
            let known =
                known.map(|(_, method)| *method).or_else(|| scale.and_then(|(_, method)| *method));
            let method = match (quantization, known) {
                (Some(quantization), _) => quantization.method.clone(),
                (None, Some(method)) => method.to_owned(),
                (None, None) => format!("{:?}", buffer.dtype),
            };
            return Err(Error::Quantized {
                file: archive.file.clone(),
                tensor: name.clone(),
                method,
            });
        }
    }
    Ok(())
}

/// Returns an error for the first tensor with an unsupported dtype.
fn check_dtypes(archive: &Archive) -> Result<()> {
    for (name, buffer) in &archive.buffers {
        let last = parts(name).1;
        // Buffers that no layer uses (masks, position ids) may be integers or booleans.
        let is_buffer = is_whole(buffer.dtype) || buffer.dtype == Dtype::BOOL;
        if !is_buffer || last == "weight" || (last == "bias" && buffer.shape.len() < 3) {
            let found = format!("{:?}", buffer.dtype);
            return Err(Error::DType { file: archive.file.clone(), tensor: name.clone(), found });
        }
    }
    Ok(())
}

/// Converts float8 codes with their scales to weights; returns their number.
fn float8(archive: &mut Archive, quantization: Option<&QuantizationConfig>) -> Result<usize> {
    let codes = |dtype: Dtype| match dtype {
        Dtype::F8_E4M3 => Some(Codes::E4M3),
        Dtype::F8_E5M2 => Some(Codes::E5M2),
        _ => None,
    };
    let names: Vec<(String, Codes)> = archive
        .buffers
        .iter()
        .filter_map(|(name, buffer)| Some((name.clone(), codes(buffer.dtype)?)))
        .collect();
    for (name, codes) in &names {
        let (stem, _) = parts(name);
        let scales = [
            format!("{name}_scale_inv"),
            format!("{name}_scale"),
            format!("{stem}scale_weight"),
            format!("{stem}scale"),
        ];
        let scale = scales.into_iter().find(|scale| {
            archive.tensors.contains_key(scale) || archive.buffers.contains_key(scale)
        });
        let Some(buffer) = archive.buffers.remove(name) else { continue };
        let float8 = match &scale {
            Some(scale) => scaled(
                archive,
                name,
                &buffer,
                *codes,
                scale,
                quantization.and_then(|quantization| quantization.block),
            )?,
            // Plain 8-bit integers.
            None if quantization.is_none() => with_scales(*codes, &buffer.shape, vec![1.0], None)
                .unwrap_or_else(|| unscaled(*codes)),
            None => {
                return Err(Error::MissingTensor {
                    file: archive.file.clone(),
                    tensor: format!("{name}_scale_inv"),
                });
            }
        };
        let Buffer { shape, bytes, range, .. } = buffer;
        let (file, stored) = (archive.file.clone(), Stored::Float8(Arc::new(float8)));
        let view =
            View { dtype: DType::BF16, shape, file, bytes, range, stored, deltas: Vec::new() };
        archive.tensors.insert(name.clone(), view);
        if let Some(scale) = scale {
            archive.tensors.remove(&scale);
            archive.buffers.remove(&scale);
        }
    }
    Ok(names.len())
}

/// The codes of an empty tensor.
fn unscaled(codes: Codes) -> Float8 {
    Float8 { codes, scales: vec![1.0], block: (1, 1), size: (1, 1) }
}

/// The codes of the tensor `name` with scales from the tensor `scale`.
fn scaled(
    archive: &Archive,
    name: &str,
    buffer: &Buffer,
    codes: Codes,
    scale: &str,
    block: Option<(usize, usize)>,
) -> Result<Float8> {
    let (shape, values) = match (archive.tensors.get(scale), archive.buffers.get(scale)) {
        (Some(view), _) => {
            view.check_finite(scale)?;
            (
                view.shape.clone(),
                view.to_tensor(&Device::Cpu)?
                    .to_dtype(DType::F32)?
                    .flatten_all()?
                    .to_vec1::<f32>()?,
            )
        }
        // Powers of two, stored as exponents.
        (None, Some(scales)) if matches!(scales.dtype, Dtype::F8_E8M0 | Dtype::U8) => {
            (scales.shape.clone(), scales.bytes().iter().map(|code| power(*code)).collect())
        }
        (None, found) => {
            let found = found.map_or_else(String::new, |scales| format!("{:?}", scales.dtype));
            return Err(Error::DType { file: archive.file.clone(), tensor: scale.into(), found });
        }
    };
    let given = block;
    with_scales(codes, &buffer.shape, values, Some((&shape, given))).ok_or_else(|| {
        let (rows, columns) = matrix(&buffer.shape);
        let (down, across) = given.unwrap_or((rows, columns));
        let mut expected = buffer.shape[..buffer.shape.len().saturating_sub(2)].to_vec();
        expected.extend([rows.div_ceil(down.max(1)), columns.div_ceil(across.max(1))]);
        let tensor = format!("{scale}, the scales of {name}");
        Error::Shape { file: archive.file.clone(), tensor, expected, found: shape }
    })
}

/// Rows and columns of the matrices of a shape.
fn matrix(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [columns] => (1, *columns),
        [.., rows, columns] => (*rows, *columns),
    }
}

/// Rows and columns per scale in blocks.
type Block = Option<(usize, usize)>;

/// Codes of `shape` with their scales: one in total, one per row, or one per block. The block size
/// is the given one, or else the one that divides rows and columns evenly. `None` if they do not
/// fit.
fn with_scales(
    codes: Codes,
    shape: &[usize],
    scales: Vec<f32>,
    of: Option<(&[usize], Block)>,
) -> Option<Float8> {
    let size @ (rows, columns) = matrix(shape);
    let count: usize = shape[..shape.len().saturating_sub(2)].iter().product();
    if shape.contains(&0) {
        return Some(unscaled(codes));
    }
    let whole = |scales: Vec<f32>| Float8 { codes, scales, block: size, size };
    let (found, given_block) = match of {
        None => return Some(Float8 { block: size, ..whole(vec![1.0; count]) }),
        Some(_) if scales.len() == 1 => return Some(whole(vec![scales[0]; count])),
        Some(of) => of,
    };
    // One per matrix, or one per row.
    let ones = found.iter().rev().take_while(|n| **n == 1).count();
    if scales.len() == count && (ones >= 2 || found.len() + 2 == shape.len()) {
        return Some(whole(scales));
    }
    if scales.len() == count * rows
        && (ones == 1 || found.len() + 1 == shape.len())
        && found.contains(&rows)
    {
        return Some(Float8 { codes, scales, block: (1, columns), size });
    }
    let (down, across) = match found {
        [stack @ .., down, across] if stack == &shape[..shape.len().saturating_sub(2)] => {
            (*down, *across)
        }
        _ => return None,
    };
    let fits =
        |(r, c): &(usize, usize)| rows.div_ceil(*r) == down && columns.div_ceil(*c) == across;
    let divides = || {
        let even =
            down > 0 && across > 0 && rows.is_multiple_of(down) && columns.is_multiple_of(across);
        even.then(|| (rows / down, columns / across))
    };
    let block = given_block.map_or_else(divides, |given_block| Some(given_block).filter(fits))?;
    Some(Float8 { codes, scales, block, size })
}

/// Removes scales of activations and of plain float weights; returns their names.
fn drop_scales(archive: &mut Archive) -> Vec<String> {
    let drops = |name: &String| DROPPED.contains(&parts(name).1);
    let names: Vec<String> = archive
        .tensors
        .keys()
        .chain(archive.buffers.keys())
        .filter(|name| drops(name))
        .cloned()
        .collect();
    for name in &names {
        archive.tensors.remove(name);
        archive.buffers.remove(name);
    }
    names
}
