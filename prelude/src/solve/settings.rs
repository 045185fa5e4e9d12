//! The settings of a solution, and the published methods that are special cases of it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The settings of a solution.
///
/// ```
/// use dam_prelude::solve::{Inputs, SolveSettings};
///
/// let regmean = SolveSettings { ridge: 0.01, ..SolveSettings::regmean() };
/// assert_eq!((regmean.inputs, regmean.examples), (Inputs::Own, 16));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SolveSettings {
    /// Examples of each source's data.
    pub examples: usize,
    /// The ridge that pulls to the average of the sources, relative to the mean diagonal of the
    /// system.
    pub ridge: f64,
    /// The target of each layer.
    pub target: Target,
    /// The inputs of each layer.
    pub inputs: Inputs,
    /// Whether the last projections of attention and MLP also correct the error of the residual
    /// stream so far. Needs `target=own` and `inputs=merged`.
    pub residual: bool,
    /// Whether to report what an unrestricted matrix would reach.
    pub unrestricted: bool,
    /// The number of layers to solve, from the first; the others, and the output layer, keep their
    /// coefficients. None: all.
    pub layers: Option<usize>,
    /// Files of text that no source is about, which is scored before and after.
    pub other: Vec<String>,
}

/// The target of a layer on the data of source `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// What source `i` gives from its own inputs.
    #[default]
    Own,
    /// What the layer of source `i` gives from the inputs of the merge.
    Merged,
}

/// The inputs of a layer on the data of source `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inputs {
    /// Those that the merge so far produces.
    #[default]
    Merged,
    /// Those of source `i`.
    Own,
    /// None: the rows of its task vector stand for them.
    Tasks,
}

impl Target {
    /// All choices.
    pub const ALL: [Self; 2] = [Self::Own, Self::Merged];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Target::Own => "own",
            Target::Merged => "merged",
        }
    }
}

impl Inputs {
    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Inputs::Merged => "merged",
            Inputs::Own => "own",
            Inputs::Tasks => "tasks",
        }
    }
}

impl Default for SolveSettings {
    fn default() -> Self {
        Self {
            examples: 16,
            ridge: 0.1,
            target: Target::Own,
            inputs: Inputs::Merged,
            residual: true,
            unrestricted: true,
            layers: None,
            other: Vec::new(),
        }
    }
}

/// A merge method that solves for whole weights, without a scheme.
#[derive(Debug)]
pub struct SolvedMethod {
    /// Its name.
    pub name: &'static str,
    /// What it makes, in a line.
    pub about: &'static str,
    /// Its default settings.
    pub settings: fn() -> SolveSettings,
}

/// The methods that solve for whole weights.
pub const SOLVED_METHODS: [SolvedMethod; 3] = [
    SolvedMethod {
        name: "regmean",
        about: "RegMean: least-squares fit of each layer to the sources' outputs, on each source's own inputs",
        settings: SolveSettings::regmean,
    },
    SolvedMethod {
        name: "regmean_plus_plus",
        about: "RegMean++: as RegMean, on the inputs of the merge so far",
        settings: SolveSettings::regmean_plus_plus,
    },
    SolvedMethod {
        name: "wudi",
        about: "WUDI: the same without data, with task vectors as inputs",
        settings: SolveSettings::wudi,
    },
];

impl SolvedMethod {
    /// Returns the method `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        SOLVED_METHODS.iter().find(|method| method.name == name)
    }
}

impl SolveSettings {
    /// RegMean (arXiv 2212.09849): every source on its own inputs.
    pub fn regmean() -> Self {
        Self { inputs: Inputs::Own, residual: false, ..Self::default() }
    }

    /// RegMean++ (arXiv 2508.03121): every source on the inputs of the merge so far.
    pub fn regmean_plus_plus() -> Self {
        Self { target: Target::Merged, residual: false, ..Self::default() }
    }

    /// WUDI (arXiv 2503.08099): no data; the rows of task vectors stand for inputs. Needs the base
    /// model.
    pub fn wudi() -> Self {
        Self { inputs: Inputs::Tasks, residual: false, ..Self::default() }
    }

    /// Returns the name of the merge method without a scheme.
    pub fn method(&self) -> &'static str {
        match (self.inputs, self.target) {
            (Inputs::Tasks, _) => "wudi",
            (Inputs::Own, _) => "regmean",
            (Inputs::Merged, Target::Merged) => "regmean_plus_plus",
            (Inputs::Merged, Target::Own) => "unrestricted",
        }
    }

    /// Returns an error for an invalid value.
    ///
    /// # Errors
    /// No examples, no layers, or a ridge that is negative or not finite.
    pub fn check(&self) -> Result<()> {
        if self.examples == 0 {
            return Err(Error::bad_value("examples", "0", "an integer from 1"));
        }
        if self.layers == Some(0) {
            return Err(Error::bad_value("layers", "0", "an integer from 1"));
        }
        if !self.ridge.is_finite() || self.ridge < 0.0 {
            return Err(Error::bad_value("ridge", &self.ridge.to_string(), "a number from 0"));
        }
        Ok(())
    }

    /// The number of times that every token runs through a model.
    pub(crate) fn runs(&self) -> u64 {
        u64::from(self.needs_own()) + u64::from(self.inputs == Inputs::Merged)
    }

    /// Whether the sources run on their own inputs.
    pub(super) fn needs_own(&self) -> bool {
        self.inputs == Inputs::Own || self.inputs == Inputs::Merged && self.target == Target::Own
    }

    /// Whether the target includes the source's own inputs.
    pub(crate) fn corrects_inputs(&self) -> bool {
        self.inputs == Inputs::Merged && self.target == Target::Own
    }

    /// Whether the target includes the error of the residual stream.
    pub(super) fn corrects_residual(&self) -> bool {
        self.residual && self.corrects_inputs()
    }
}
