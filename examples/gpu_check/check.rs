//! A check: what it computes on both sides, and how far the results may be apart.

use std::rc::Rc;

use anyhow::Result;

use crate::target::{BACKWARD, FORWARD, Found, Target};

/// The references.
pub const FUSED: &str = "fused CPU path";
pub const LOOPS: &str = "plain loops in f64";

/// How two sides are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// The largest difference of each tensor, relative to its largest element.
    Relative,
    /// The same, relative to the largest element of all tensors of the measure.
    RelativeToAll,
    /// The largest difference.
    Absolute,
    /// Equal texts.
    Equal,
    /// The largest difference of the tensor `MEASURE/X`, where the reference's `gradients/X` is
    /// above this share of its largest element: the first step of AdamW goes by the sign of the
    /// gradient, and that of a gradient near 0 is up to rounding.
    WhereGradient(f64),
}

/// Something that a check measures; a row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub name: &'static str,
    pub tolerance: f64,
    pub how: How,
}

/// The computation of a check.
pub type Run = Rc<dyn Fn(&Target) -> Result<Found>>;

/// A check in one dtype.
#[derive(Clone)]
pub struct Check {
    pub name: String,
    /// Whether the device computes in bf16.
    pub half: bool,
    /// What the device is compared with.
    pub reference: &'static str,
    pub measures: Vec<Measure>,
    pub run: Run,
}

impl Check {
    pub fn dtype(&self) -> &'static str {
        if self.half { "bf16" } else { "f32" }
    }
}

/// The checks that share a process on each side.
pub struct Part {
    pub name: &'static str,
    pub checks: Vec<Check>,
}

/// The sizes of checks.
#[derive(Clone, Copy)]
pub struct Size {
    /// Rows of inputs, and their width.
    pub rows: usize,
    pub width: usize,
}

impl Size {
    pub fn new(quick: bool) -> Self {
        let (rows, width) = if quick { (37, 96) } else { (300, 512) };
        Self { rows, width }
    }
}

/// The tolerances of a single operation, in f32 and in bf16. A bf16 has eight significant bits, so
/// one rounding is 0.4% of an element.
pub const ONE: [f64; 2] = [2e-5, 1e-2];
/// The same of several operations one after another.
pub const SEVERAL: [f64; 2] = [5e-5, 3e-2];

/// The forward and backward pass of an operation, in f32 and in bf16.
pub fn operation(
    name: impl Into<String>,
    reference: &'static str,
    tolerances: [f64; 2],
    run: impl Fn(&Target) -> Result<Found> + 'static,
) -> Vec<Check> {
    both(name, reference, run, |half| {
        let tolerance = tolerances[usize::from(half)];
        let measure = |name| Measure { name, tolerance, how: How::Relative };
        vec![measure(FORWARD), measure(BACKWARD)]
    })
}

/// A check in f32 and in bf16.
pub fn both(
    name: impl Into<String>,
    reference: &'static str,
    run: impl Fn(&Target) -> Result<Found> + 'static,
    measures: impl Fn(bool) -> Vec<Measure>,
) -> Vec<Check> {
    let (name, run): (String, Run) = (name.into(), Rc::new(run));
    let one = |half| Check {
        name: name.clone(),
        half,
        reference,
        measures: measures(half),
        run: run.clone(),
    };
    vec![one(false), one(true)]
}
