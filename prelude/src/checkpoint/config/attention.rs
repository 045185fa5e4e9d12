//! Reads position settings from config.json: sliding windows, and rotary embeddings with their
//! scaling.

use serde_json::{Map, Value};

use super::architecture::LayerAttention;
use super::family::{Family, Local, NoRope, Windows};
use super::rope::{Rope, Scaling};
use super::values::Config;
use crate::error::Result;

type Object = Map<String, Value>;

impl Config<'_> {
    /// The rotary embeddings, and the attention of each layer.
    pub(super) fn attention(
        &self,
        family: &Family,
        layers: usize,
        head_dim: usize,
    ) -> Result<(Vec<Rope>, Vec<LayerAttention>)> {
        if self.flag("use_bidirectional_attention", false)? {
            return Err(
                self.bad("use_bidirectional_attention", "only causal attention is supported")
            );
        }
        if !self.flag("is_causal", true)? {
            return Err(self.bad("is_causal", "only causal attention is supported"));
        }
        let mut has_rope = self.has_rope(family, layers)?;
        let (window, slides) = self.windows(family, &has_rope)?;
        if family.no_rope == NoRope::FullAttention && window.is_some() {
            has_rope.clone_from(&slides);
        }
        let ropes = self.ropes(family, head_dim)?;
        let local = ropes.len() - 1;
        let attention = slides.iter().zip(has_rope).map(|(slides, has_rope)| LayerAttention {
            window: window.filter(|_| *slides),
            rope: has_rope.then_some(if *slides { local } else { 0 }),
        });
        let attention = attention.collect();
        Ok((ropes, attention))
    }

    /// The window, and which layers use it. `has_rope`: which layers have rotary embeddings.
    fn windows(&self, family: &Family, has_rope: &[bool]) -> Result<(Option<usize>, Vec<bool>)> {
        let window = if self.map.contains_key("sliding_window") {
            self.size("sliding_window")?
        } else {
            family.window
        };
        let window = match family.windows {
            Windows::All | Windows::Pattern(_) => window,
            Windows::FromLayer(_) | Windows::NoRopeLayers => {
                window.filter(|_| self.value("use_sliding_window") == Some(&Value::Bool(true)))
            }
            Windows::Never => None,
        };
        self.flag("use_sliding_window", false)?;
        let types = self.layer_types(has_rope.len())?;
        // `layer_types` takes precedence over the letter pattern of exaone4; without a window, the
        // pattern has no effect.
        let settled =
            family.no_rope == NoRope::FullAttention && (types.is_some() || window.is_none());
        let pattern = if settled { None } else { self.size("sliding_window_pattern")? };
        if family.windows == Windows::Pattern(2) && pattern.is_some_and(|p| p != 2) {
            let reason = format!("every second layer of {} must have a window", family.name);
            return Err(self.bad("sliding_window_pattern", reason));
        }
        let from = match family.windows {
            Windows::FromLayer(from) => self.whole("max_window_layers", from)?,
            _ => 0,
        };
        let known = |(layer, has_rope): (usize, &bool)| match family.windows {
            Windows::FromLayer(_) => window.is_some() && layer >= from,
            Windows::NoRopeLayers => window.is_some() && !has_rope,
            Windows::Pattern(usual) => (layer + 1) % pattern.unwrap_or(usual) != 0,
            Windows::All | Windows::Never => window.is_some(),
        };
        let known: Vec<bool> = has_rope.iter().enumerate().map(known).collect();
        // If all layers of a model are of one kind, `layer_types` cannot change that.
        let free = window.is_some() && family.windows != Windows::All;
        match types {
            Some(types) if free || types == known || family.no_rope == NoRope::FullAttention => {
                Ok((window, types))
            }
            Some(_) => Err(self.bad("layer_types", "it contradicts the sliding window")),
            None => Ok((window, known)),
        }
    }

    /// Whether each layer uses a sliding window, if `layer_types` is given.
    fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(found) = self.value("layer_types") else { return Ok(None) };
        let one = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let types: Option<Vec<bool>> =
            found.as_array().and_then(|types| types.iter().map(one).collect());
        let types = types.filter(|types| types.len() == layers);
        let reason = || {
            format!(
                "`{found}` is not a list of {layers} entries full_attention or sliding_attention"
            )
        };
        types.map(Some).ok_or_else(|| self.bad("layer_types", reason()))
    }

    /// Which layers have rotary embeddings: all, except every fourth of smollm3.
    fn has_rope(&self, family: &Family, layers: usize) -> Result<Vec<bool>> {
        if family.no_rope != NoRope::Listed {
            return Ok(vec![true; layers]);
        }
        let interval = self.size("no_rope_layer_interval")?.unwrap_or(4);
        let Some(list) = self.value("no_rope_layers") else {
            return Ok((0..layers).map(|layer| (layer + 1) % interval != 0).collect());
        };
        let has_rope: Option<Vec<bool>> =
            list.as_array().and_then(|l| l.iter().map(|v| v.as_u64().map(|x| x != 0)).collect());
        let has_rope = has_rope.filter(|t| t.len() >= layers).map(|t| t[..layers].to_vec());
        has_rope.ok_or_else(|| {
            self.bad("no_rope_layers", format!("`{list}` is not a list of {layers} numbers"))
        })
    }

    /// The rotary embedding of all layers; if sliding-window layers have their own, that of full
    /// attention first. transformers 4 uses `rope_theta` and `rope_scaling`, transformers 5
    /// `rope_parameters`.
    fn ropes(&self, family: &Family, head_dim: usize) -> Result<Vec<Rope>> {
        let empty = Object::new();
        let (new, old) = (self.object("rope_parameters")?, self.object("rope_scaling")?);
        let theta = self.number("rope_theta", family.theta)?;
        let local = match family.local {
            Some(Local::OwnBase) => Some(self.number("rope_local_base_freq", 10_000.0)?),
            Some(Local::SameBase) => Some(theta),
            None => None,
        };
        let Some(new) = new else {
            let mut ropes = vec![self.rope(family, old.unwrap_or(&empty), theta, head_dim)?];
            if let Some(local) = local {
                ropes.push(self.rope(family, &empty, local, head_dim)?);
            }
            return Ok(ropes);
        };
        let part = |kind: &str| match new.get(kind) {
            None | Some(Value::Null) => Ok(&empty),
            Some(Value::Object(part)) => Ok(part),
            Some(other) => Err(self.bad(kind, format!("`{other}` is not an object"))),
        };
        let parts = match local {
            Some(local) => {
                let known = ["full_attention", "sliding_attention"];
                if let Some(key) = new.keys().find(|key| !known.contains(&key.as_str())) {
                    return Err(self.bad(
                        "rope_parameters",
                        format!("`{key}` is not full_attention or sliding_attention"),
                    ));
                }
                vec![(part("full_attention")?, theta), (part("sliding_attention")?, local)]
            }
            None => vec![(new, theta)],
        };
        let full = parts.first().map_or(&empty, |(full, _)| full);
        let name = |key: &str| if key == "type" { "rope_type".to_owned() } else { key.to_owned() };
        let differs = |(key, value): (&String, &Value)| {
            full.get(key).or_else(|| full.get(&name(key))) != Some(value)
        };
        if let Some((key, _)) = old.into_iter().flatten().find(|entry| differs(*entry)) {
            return Err(
                self.bad("rope_scaling", format!("`rope_parameters` has a different `{key}`"))
            );
        }
        parts.into_iter().map(|(part, theta)| self.rope(family, part, theta, head_dim)).collect()
    }

    /// The rotary embedding described by `parameters`; `theta` is the default.
    fn rope(
        &self,
        family: &Family,
        parameters: &Object,
        theta: f64,
        head_dim: usize,
    ) -> Result<Rope> {
        if let Some((key, _)) = parameters.iter().find(|(_, value)| value.is_object()) {
            return Err(
                self.bad("rope_parameters", format!("`{}` does not support `{key}`", family.name))
            );
        }
        let theta = self.number_in(parameters, "rope_theta")?.unwrap_or(theta);
        let partial = self.number("partial_rotary_factor", family.partial_rotary.unwrap_or(1.0))?;
        let partial = self.number_in(parameters, "partial_rotary_factor")?.unwrap_or(partial);
        if partial > 1.0 || (partial < 1.0 && family.partial_rotary.is_none()) {
            return Err(self.bad("partial_rotary_factor", format!("`{partial}` must be 1")));
        }
        let dims = (head_dim as f64 * partial) as usize;
        if !dims.is_multiple_of(2) || dims == 0 {
            return Err(self.bad(
                "head_dim",
                format!("`{dims}` is odd; rotary embedding needs an even number"),
            ));
        }
        let name = match parameters.get("rope_type").or_else(|| parameters.get("type")) {
            None | Some(Value::Null) => "default",
            Some(Value::String(name)) => name,
            Some(other) => return Err(self.bad("rope_type", format!("`{other}` is not a name"))),
        };
        let scaling = match (family.longrope_only, name) {
            (_, "default") => Scaling::None,
            // For text, positions in time, height and width are equal.
            (_, "mrope") if family.mrope => Scaling::None,
            // Former names of longrope.
            (true, "longrope" | "su" | "yarn") => self.longrope(family, parameters, dims)?,
            (true, other) => {
                return Err(self.bad("rope_type", format!("`{other}` is not default or longrope")));
            }
            (_, "linear") => Scaling::Linear { factor: self.required_in(parameters, "factor")? },
            (_, "llama3") => self.llama3(family, parameters)?,
            (_, "yarn") => self.yarn(family, parameters, theta, dims)?,
            (_, "longrope") => self.longrope(family, parameters, dims)?,
            (_, other) => {
                return Err(self.bad(
                    "rope_type",
                    format!("`{other}` is not default, linear, llama3, yarn or longrope"),
                ));
            }
        };
        Ok(Rope { theta, dims, scaling, pairs: family.pairs })
    }

    /// The context length before scaling: a top-level key, or part of the rotary settings.
    fn original(&self, family: &Family, parameters: &Object) -> Result<usize> {
        const KEY: &str = "original_max_position_embeddings";
        let own = self.size_in(parameters, KEY)?;
        match (self.size(KEY)?.or(family.longrope_only.then_some(4096)), own) {
            (Some(beside), Some(own)) if beside != own => {
                Err(self.bad(KEY, format!("it is `{beside}`, but `{own}` in the rotary settings")))
            }
            (Some(original), _) | (None, Some(original)) => Ok(original),
            (None, None) => self.max_positions(family),
        }
    }

    fn llama3(&self, family: &Family, parameters: &Object) -> Result<Scaling> {
        let (low, high) = (
            self.required_in(parameters, "low_freq_factor")?,
            self.required_in(parameters, "high_freq_factor")?,
        );
        if high <= low {
            return Err(self.bad(
                "high_freq_factor",
                format!("`{high}` is not greater than low_freq_factor, `{low}`"),
            ));
        }
        let original = self.original(family, parameters)? as f64;
        Ok(Scaling::Llama3 { factor: self.required_in(parameters, "factor")?, low, high, original })
    }

    /// arXiv 2309.00071: frequencies with more than `beta_fast` rotations over the original context
    /// are kept; those with fewer than `beta_slow` are divided by the factor.
    fn yarn(
        &self,
        family: &Family,
        parameters: &Object,
        theta: f64,
        dims: usize,
    ) -> Result<Scaling> {
        let (original, factor) =
            (self.original(family, parameters)? as f64, self.required_in(parameters, "factor")?);
        if theta <= 1.0 {
            return Err(self.bad("rope_theta", format!("`{theta}` is not greater than 1")));
        }
        let pair = |key: &str, default: f64| -> Result<f64> {
            let rotations = self.number_in(parameters, key)?.unwrap_or(default);
            Ok(dims as f64 * (original / (rotations * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * theta.ln()))
        };
        let (mut low, mut high) = (pair("beta_fast", 32.0)?, pair("beta_slow", 1.0)?);
        if self.flag_in(parameters, "truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let warmth = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let own = self.number_in(parameters, "attention_factor")?;
        let attention = match (
            own,
            self.number_in(parameters, "mscale")?,
            self.number_in(parameters, "mscale_all_dim")?,
        ) {
            (Some(own), ..) => own,
            (None, Some(one), Some(all)) => warmth(one) / warmth(all),
            _ => warmth(1.0),
        };
        Ok(Scaling::Yarn { factor, low, high, attention })
    }

    fn longrope(&self, family: &Family, parameters: &Object, dims: usize) -> Result<Scaling> {
        let factors = |key: &str| {
            let list = parameters.get(key).and_then(Value::as_array);
            let list: Option<Vec<f64>> =
                list.and_then(|l| l.iter().map(|v| v.as_f64().filter(|x| *x > 0.0)).collect());
            list.filter(|l| l.len() == dims / 2).ok_or_else(|| {
                self.bad(key, format!("it is not a list of {} positive numbers", dims / 2))
            })
        };
        let original = self.original(family, parameters)?;
        if original < 2 {
            return Err(self.bad(
                "original_max_position_embeddings",
                format!("`{original}` is not a valid context length"),
            ));
        }
        let ratio = self.max_positions(family)? as f64 / original as f64;
        let factor = self.number_in(parameters, "factor")?.unwrap_or(ratio);
        let known =
            if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
        let attention = self.number_in(parameters, "attention_factor")?.unwrap_or(known);
        Ok(Scaling::Long {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original,
            attention,
        })
    }
}
