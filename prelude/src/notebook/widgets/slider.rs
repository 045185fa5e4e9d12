//! A slider: a number between two ends.

use serde_json::{Map, Value, json};

use super::control::{Control, Input};
use super::output::IntoOutput;
use crate::error::{Error, Result};

/// A slider in the notebook. The closure runs while the slider moves; of moves that come faster
/// than it returns, it gets the latest.
///
/// A [`Dam`](crate::Dam) is a handle, so a clone of it in the closure is the same session:
///
/// ```
/// use dam_prelude::*;
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let own = dam.clone();
/// let math = Slider { label: "math".into(), max: 1.5, value: 0.5, ..Default::default() };
/// let math = math.on_change(move |x| {
///     own.mix("*", &[("math", Amount::To(x))])?;
///     own.loss()
/// })?;
/// assert_eq!(math.value(), 0.5);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Slider {
    /// The text beside it.
    pub label: String,
    /// The left end.
    pub min: f64,
    /// The right end.
    pub max: f64,
    /// The distance between two positions.
    pub step: f64,
    /// The position at first.
    pub value: f64,
}

impl Default for Slider {
    fn default() -> Self {
        Self { label: String::new(), min: 0.0, max: 1.0, step: 0.01, value: 0.0 }
    }
}

impl Slider {
    /// Opens the slider; `closure` runs with its position after every change, and what it returns
    /// is shown below the slider.
    ///
    /// # Errors
    /// `min` is not below `max`, `step` is not positive, or `value` is not between the ends.
    pub fn on_change<R: IntoOutput>(
        self,
        mut closure: impl FnMut(f64) -> R + Send + 'static,
    ) -> Result<Control<Self>> {
        self.check()?;
        Ok(Control::open(self, move |value| closure(*value)))
    }

    fn check(&self) -> Result<()> {
        let Self { min, max, step, value, .. } = self;
        let bad = |key: &str, value: &f64, expected: &str| {
            Err(Error::bad_value(key, &value.to_string(), expected))
        };
        if !min.is_finite() || !max.is_finite() || min >= max {
            return bad("max", max, &format!("a number above min, which is {min}"));
        }
        if !step.is_finite() || *step <= 0.0 {
            return bad("step", step, "a positive number");
        }
        if !(*min..=*max).contains(value) {
            return bad("value", value, &format!("a number from {min} to {max}"));
        }
        Ok(())
    }
}

impl Input for Slider {
    type Value = f64;

    fn widget(&self) -> (&'static str, Value) {
        let Self { label, min, max, step, .. } = self;
        let state = json!({
            "description": label, "min": min, "max": max, "step": step,
            "continuous_update": true, "readout_format": ".3g", "style": "SliderStyleModel",
        });
        ("FloatSlider", state)
    }

    fn start(&self) -> f64 {
        self.value
    }

    fn state(&self, value: &f64) -> Value {
        json!({"value": on_grid(*value, self.min, self.max, self.step)})
    }

    fn is_same(&self, before: &f64, after: &f64) -> bool {
        (before - after).abs() < 0.51 * self.step
    }

    fn read(&self, changed: &Map<String, Value>) -> Option<f64> {
        let value = changed.get("value")?.as_f64()?;
        (self.min..=self.max).contains(&value).then_some(value)
    }

    fn still(&self, value: &f64) -> (String, String) {
        (self.label.clone(), format!("{value} (from {} to {})", self.min, self.max))
    }
}

/// The position of a slider that is nearest to `value`. The front end moves a slider there by
/// itself, and reports that as a move.
pub(in crate::notebook) fn on_grid(value: f64, min: f64, max: f64, step: f64) -> f64 {
    let position = min + ((value - min) / step).round() * step;
    // Without the error of the product: 0.07 and not 0.07000000000000001.
    let position = (position * 1e9).round() / 1e9;
    position.clamp(min, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_between_two_positions_is_not_a_move() {
        let slider = Slider { min: -0.5, max: 1.5, ..Slider::default() };
        assert_eq!(slider.state(&0.4937), json!({"value": 0.49}));
        assert_eq!(slider.state(&7.0), json!({"value": 1.5}));
        assert!(slider.is_same(&0.4937, &0.49) && slider.is_same(&0.4951, &0.5));
        assert!(!slider.is_same(&0.49, &0.5));
    }

    #[test]
    fn a_slider_has_ends_and_a_position_between_them() {
        let slider = |min, max, step, value| Slider { min, max, step, value, ..Slider::default() };
        for wrong in [
            slider(1.0, 1.0, 0.1, 1.0),
            slider(0.0, f64::INFINITY, 0.1, 1.0),
            slider(0.0, 1.0, 0.0, 1.0),
            slider(0.0, 1.0, 0.1, 2.0),
            slider(0.0, 1.0, 0.1, f64::NAN),
        ] {
            assert!(wrong.on_change(|_| ()).is_err());
        }
        let read = |value: Value| {
            slider(0.0, 1.0, 0.1, 0.5).read(json!({"value": value}).as_object().unwrap())
        };
        assert_eq!(read(json!(1)), Some(1.0));
        assert_eq!([json!(1.5), json!("1"), json!(null)].map(read), [None; 3]);
    }
}
