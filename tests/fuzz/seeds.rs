//! Valid files of every kind, from tests/data, as a start for fuzzing.

use std::fs;
use std::path::{Path, PathBuf};

use dam_prelude::load;

use crate::common::resaved;

/// The maximum size in bytes; larger files are slow and add nothing.
const LARGEST: u64 = 200_000;

/// The files below `directory` whose path ends with one of `wanted`, in order.
fn files(directory: &Path, wanted: &[&str], found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, wanted, found);
        } else if wanted.iter().any(|end| path.to_string_lossy().ends_with(end))
            && path.metadata().unwrap().len() <= LARGEST
        {
            found.push(path);
        }
    }
}

fn read(wanted: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["tests/data", "prelude/builtin"] {
        files(&root.join(directory), wanted, &mut found);
    }
    assert!(!found.is_empty(), "no seeds end in {wanted:?}");
    found.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A safetensors file with a few small tensors.
fn tensors(names: &[(&str, [usize; 2])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in names {
        let begin = data.len();
        data.extend((0..shape[0] * shape[1]).flat_map(|i| (i as f32 / 7.0).to_le_bytes()));
        header.insert((*name).into(), serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.push_str(&" ".repeat((8 - header.len() % 8) % 8));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// A small session of two built-in sources: one number per tensor.
fn session() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let dam =
        load(["builtin:japanese", "builtin:math"]).unwrap().wrap(dam_prelude::PerTensor).unwrap();
    dam.step().unwrap();
    let file = directory.path().join("session");
    dam.save(&file).unwrap();
    fs::read(file).unwrap()
}

/// The chat templates of tokenizer_config.json files, and some that use more features.
fn templates() -> Vec<Vec<u8>> {
    let template = |bytes: &Vec<u8>| {
        let config: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        config["chat_template"].as_str().map(|text| text.as_bytes().to_vec())
    };
    let mut all: Vec<Vec<u8>> =
        read(&["tokenizer_config.json"]).iter().filter_map(template).collect();
    all.dedup();
    let more = [
        "{% set ns = namespace(x='', n=0) %}{% for m in messages %}{% set ns.x = ns.x ~ m.content|trim %}{% set ns.n = ns.n + 1 %}\
         {% endfor %}{{ ns.x }}{{ ns.n }}",
        "{% macro say(m, n=2) %}[{{ m['role'].upper() }}]{{ m.content.split(' ')[-1] * n }}{% endmacro %}\
         {% for m in messages %}{{ say(m) }}{% endfor %}",
        "{{ bos_token }}{% for m in messages if m.role != 'system' %}{{ '{:>8}|{}'.format(m.role, loop.index0) }}\
         {{ m.content.replace('a', 'bb')|tojson }}{{ ', '.join(['x', m.role]) }}{% endfor %}{{ strftime_now('%d %b %Y') }}",
        "{% if messages[0].role == 'system' %}{{ messages[0]|tojson(indent=2) }}{% set messages = messages[1:] %}{% endif %}\
         {% for m in messages|list|reverse %}{{ m.items()|list }}{{ range(3)|join }}{{ '%05d' % 3 }}{% endfor %}\
         {% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}",
    ];
    all.extend(more.map(|text| text.as_bytes().to_vec()));
    all
}

fn recipes() -> [Vec<u8>; 3] {
    [
        "merge_method: ties\nbase_model: base\nmodels:\n- model: a\n  parameters: {weight: 0.5, density: [0.4, 0.8]}\n\
             - model: b\n  parameters: {weight: 0.5}\nparameters: {normalize: true}\ndtype: bfloat16\n",
        "merge_method: slerp\nbase_model: a\nslices:\n- sources:\n  - {model: a, layer_range: [0, 2]}\n  - {model: b, \
             layer_range: [0, 2]}\nparameters:\n  t:\n  - {filter: self_attn, value: [0, 0.5, 1]}\n  - value: 0.5\n\
             tokenizer_source: union\nout_dtype: float16\n",
        "x: &x {weight: 1}\nmerge_method: linear\nmodels:\n- {model: a, parameters: *x}\n- {model: b, parameters: *x}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
}

/// Valid input for the target `name`.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let lines = |text: &str| text.lines().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>();
    match name {
        "safetensors" => {
            let mut all = vec![tensors(&[("a.weight", [2, 3]), ("b", [1, 1])]), tensors(&[])];
            all.extend(read(&["plain/adapter_model.safetensors"]));
            all
        }
        "index" => {
            let mut all = read(&["model.safetensors.index.json"]);
            all.push(
                br#"{"metadata": {"total_size": 4}, "weight_map": {"a": "shard.safetensors"}}"#
                    .to_vec(),
            );
            all
        }
        "config" => read(&["config.json"]),
        "gguf" => read(&[".gguf"]),
        "adapter" => {
            let (mut configs, root) = (Vec::new(), Path::new(env!("CARGO_MANIFEST_DIR")));
            files(&root.join("tests/data"), &["adapter_config.json"], &mut configs);
            let both = |config: &PathBuf| {
                let weights = fs::read(config.with_file_name("adapter_model.safetensors"))
                    .ok()
                    .filter(|w| w.len() < 30_000)?;
                Some([&fs::read(config).unwrap()[..], &b"\0"[..], &weights].concat())
            };
            configs.iter().filter_map(both).collect()
        }
        "torch" => read(&[".bin"]),
        "tokenizer" => read(&["tokenizer.json"]),
        "template" => templates(),
        "recipe" => {
            let mut all = read(&[".yml"]);
            all.extend(recipes());
            all
        }
        "data" => {
            let mut all = vec![
                br#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#.to_vec(),
                b"{\"instruction\": \"a\", \"input\": \"b\", \"output\": \"c\"}\n{\"input_ids\": [1, 2, 3]}\n{\"text\": \"d\"}\n"
                    .to_vec(),
                br#"[{"question": "a", "choices": ["b", "c"], "answer": 1}, {"prompt": "a", "completion": "b"}]"#.to_vec(),
            ];
            all.extend(read(&[".parquet", ".csv"]));
            all.push(b"question,\"answer\"\n\"a \"\"b\"\"\",2\r\n3,4\n".to_vec());
            all
        }
        "session" => {
            let good = session();
            // Without a checksum, mutations get further.
            vec![resaved(&good, |_| ()), good]
        }
        "line" => lines(
            "load base=builtin:base ja=builtin:japanese 'a b'=./x+y\nwrap columns f=tanh train=linear,norm; set lr=1e-2 # a\n\
             merge ties density=0.5 weight=1,0.5 out dtype=bf16 --force; train 20\nask \"What \\\"is\\\" 12?\" tokens=3\n\
             plot coefficients layers.*.mlp file.svg; eval a.jsonl --all; save 'x;y'; help train\ndata ja=日本語.jsonl; undo 2",
        ),
        other => panic!("no seeds for {other}"),
    }
}
