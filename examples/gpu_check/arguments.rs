//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Checks and measures everything that DAM Lab does on a GPU, beside the CPU.
#[derive(Parser, Debug)]
#[command(name = "gpu_check", version)]
pub struct Arguments {
    /// The device to check; by default the GPU, or without one the CPU on the path of GPUs.
    pub device: Option<Kind>,
    /// Small shapes and few steps, for a run of less than a minute on a CPU.
    #[arg(long)]
    pub quick: bool,
    /// Runs only the parts whose names contain this.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub part: String,
    /// Writes all rows and measurements to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the large models are written, in a directory that is deleted afterwards; by default
    /// the system's temporary directory. Three 8B models take 48 GB.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A part to run in this process: its name, the side, and the directory for its results.
    #[arg(long, hide = true, num_args = 3)]
    pub worker: Option<Vec<String>>,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Cpu,
    Cuda,
    Metal,
}

impl Kind {
    /// The value of the setting `device`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Cuda => "cuda",
            Kind::Metal => "metal",
        }
    }
}
