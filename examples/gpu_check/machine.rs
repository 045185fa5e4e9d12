//! The device by name, its driver, and its memory.

use std::process::Command;

use serde_json::{Value, json};
use sysinfo::System;

use crate::arguments::Kind;

/// What a report says of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub kind: Kind,
    /// The name of the card or processor.
    pub name: String,
    /// The driver of the card, or the operating system.
    pub driver: String,
    /// The bytes of the card's memory, or of main memory.
    pub memory: Option<u64>,
}

impl Machine {
    /// Asks the system.
    pub fn of(kind: Kind) -> Self {
        if kind == Kind::Cuda {
            let fields = nvidia_smi("name,driver_version,memory.total").unwrap_or_default();
            let mut fields = fields.split(',').map(|field| field.trim().to_owned());
            let mut next = || fields.next().filter(|field| !field.is_empty());
            let unknown = || "unknown: nvidia-smi does not answer".to_owned();
            return Self {
                kind,
                name: next().unwrap_or_else(unknown),
                driver: next().unwrap_or_else(unknown),
                memory: next().and_then(|mib| mib.parse::<u64>().ok()).map(|mib| mib << 20),
            };
        }
        let mut system = System::new();
        system.refresh_cpu_all();
        system.refresh_memory();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let brand = system.cpus().first().map_or("unknown", |cpu| cpu.brand()).trim().to_owned();
        Self {
            kind,
            name: if kind == Kind::Cpu { format!("{brand}, {cores} cores") } else { brand },
            driver: System::long_os_version().unwrap_or_else(|| "unknown".into()),
            memory: Some(system.total_memory()),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "device": self.kind.name(), "name": self.name, "driver": self.driver,
            "memory_bytes": self.memory,
        })
    }

    /// One line.
    pub fn line(&self) -> String {
        let gib = self.memory.map_or_else(String::new, |bytes| {
            format!(", {:.1} GiB", bytes as f64 / f64::from(1 << 30))
        });
        format!("{}: {}, {}{gib}", self.kind.name(), self.name, self.driver)
    }
}

/// Returns the first line of what nvidia-smi says of the card that programs see as the first.
fn nvidia_smi(fields: &str) -> Option<String> {
    let output = smi(fields).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

/// nvidia-smi for `fields` of the first card, as values separated by commas; sizes are in MiB.
pub fn smi(fields: &str) -> Command {
    let mut command = Command::new("nvidia-smi");
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let first = visible.split(',').next().filter(|card| !card.is_empty()).unwrap_or("0").to_owned();
    command.args(["-i", &first, "--format=csv,noheader,nounits", &format!("--query-gpu={fields}")]);
    command
}
