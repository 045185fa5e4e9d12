//! The cost of autosave: trains a merge with as many coefficients as one of three 8B models (4.6
//! million, 55 MB per state with its moments), with autosave and without.
//! `cargo bench --bench autosave`.
//!
//! The model is wide and shallow, so that its steps take about a second. The cost of a state
//! depends on its size alone, so it is reported in seconds, and as a share of a training step of
//! three 7B models: 42 s on two cores, with 32 tokens from each.
//!
//! The goal: less than 5% of the training time, and memory use that does not grow with the number
//! of states.

#[cfg(target_os = "linux")]
#[path = "../tests/common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
    use dam_prelude::checkpoint::{Architecture, Kind};

    use super::common::terminal::{Terminal, dam};

    /// As many columns as an 8B model has: 32 layers of seven linear and two norm layers, the
    /// embedding, the output layer and its norm.
    const CONFIG: &str = r#"{
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 16, "num_hidden_layers": 53, "vocab_size": 64,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false, "hidden_act": "silu", "max_position_embeddings": 64, "rope_theta": 10000.0
    }"#;

    /// The number of timed steps of `train`, and of `step` one by one.
    const TRAINED: usize = 60;
    const STEPS: usize = 30;

    /// The seconds per step of three 7B models.
    const SECONDS_7B: f64 = 42.0;

    fn write_source(dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.json"), CONFIG).unwrap();
        let architecture =
            Architecture::parse(&dir.join("config.json"), CONFIG.as_bytes()).unwrap();
        let tensor = |shape: &[usize], kind| match kind {
            Kind::Norm => Tensor::ones(shape, DType::BF16, &Device::Cpu),
            _ => Tensor::randn(0f32, 0.02, shape, &Device::Cpu).unwrap().to_dtype(DType::BF16),
        };
        let tensors = architecture
            .tensors()
            .into_iter()
            .map(|spec| (spec.name, tensor(&spec.shape, spec.kind).unwrap()));
        safetensors::save(&tensors.collect(), dir.join("model.safetensors")).unwrap();
        let ids: Vec<usize> = (0..16).map(|i| i * 3 % 64).collect();
        std::fs::write(dir.join("data.jsonl"), format!("{{\"input_ids\": {ids:?}}}\n")).unwrap();
    }

    fn resident(process: u32) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// The time per step of `train` and of `step` at a prompt, and the memory after 5 steps and
    /// after all of them, in MB.
    fn measure(models: &Path, autosave: bool) -> (Duration, Duration, [f64; 2]) {
        let home = tempfile::tempdir().unwrap();
        let mut command = dam(home.path());
        if !autosave {
            // Sessions cannot be saved in a file.
            std::fs::write(home.path().join("file"), "").unwrap();
            command.env("XDG_STATE_HOME", home.path().join("file"));
        }
        let mut terminal = Terminal::start(command, 30, 100);
        terminal.wait_for("dam>");
        let timed = |terminal: &mut Terminal, line: &str, end: &str| {
            let begin = Instant::now();
            terminal.line(line);
            terminal.wait_for_prompt(end);
            begin.elapsed()
        };
        let (at, names) = (models.display(), ["a", "b", "c"]);
        let each = |what: &str| names.map(|name| format!("{name}={at}/{name}{what}")).join(" ");
        timed(
            &mut terminal,
            &format!("load {}; data {}; wrap; step 2", each(""), each("/data.jsonl")),
            "step 2",
        );
        let mut trained = 2;
        let mut total = Duration::ZERO;
        // In parts, because the test terminal waits a minute at most.
        for _ in 0..4 {
            trained += TRAINED / 4;
            total +=
                timed(&mut terminal, &format!("train {}", TRAINED / 4), &format!("step {trained}"));
        }
        let mut memory = [0.0; 2];
        let mut each = Duration::ZERO;
        for i in 1..=STEPS {
            each += timed(&mut terminal, "step", &format!("step {}", trained + i));
            memory[usize::from(i > 5)] = resident(terminal.id());
        }
        (total / TRAINED as u32, each / STEPS as u32, memory)
    }

    pub fn main() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            write_source(&directory.path().join(name));
        }
        println!(
            "{:20} {:>14} {:>14} {:>22}",
            "", "train, per step", "step by step", "memory (MB) at 5, 30"
        );
        let row = |name: &str, (train, step, memory): (Duration, Duration, [f64; 2])| {
            let (train, step) = (train.as_secs_f64(), step.as_secs_f64());
            println!(
                "{name:20} {train:12.3} s {step:12.3} s {:10.0} {:10.0}",
                memory[0], memory[1]
            );
            (train, step)
        };
        let (with, without) = (
            row("with autosave", measure(directory.path(), true)),
            row("without", measure(directory.path(), false)),
        );
        let cost = (with.0 - without.0, with.1 - without.1);
        println!("{:20} {:12.3} s {:12.3} s", "cost per state", cost.0, cost.1);
        println!(
            "{:20} {:12.1} % {:12.1} %",
            "of a 3 x 7B step",
            cost.0 / SECONDS_7B * 100.0,
            cost.1 / SECONDS_7B * 100.0
        );
    }
}
