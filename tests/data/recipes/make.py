"""Small models and what mergekit 0.1.5 makes of them by the recipes here: `python make.py MERGEKIT_BIN`.

Models are random, of a few kB, in float32. For each `NAME.yml` it writes `NAME.safetensors` and `NAME.json`, which
has the configuration and the tokenizer's tokens of the merge. A recipe of several documents is made by mergekit-multi.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).parent
BIN = pathlib.Path(sys.argv[1])
HIDDEN, INNER, HEADS, KV = 8, 12, 2, 1


def tokenizer(folder, added, template=None):
    """Words w0..w19, then what is added."""
    words = {f"w{i}": i for i in range(20)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    file = {
        "version": "1.0",
        "added_tokens": [{"id": 20 + i, "content": token, **flags} for i, token in enumerate(added)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(file))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save(name, config, tensors, added=None, template=None):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    if added is not None:
        tokenizer(folder, added, template)


def llama(seed, rows, layers=2, experts=0, **config):
    rng = np.random.default_rng(seed)
    t = {}

    def add(name, *shape):
        t[name] = rng.normal(0, 0.3, shape) + (1.0 if "norm" in name else 0.0)

    add("model.embed_tokens.weight", rows, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}"
        add(f"{p}.input_layernorm.weight", HIDDEN)
        for part, n in (("q", HIDDEN), ("k", HIDDEN // HEADS * KV), ("v", HIDDEN // HEADS * KV), ("o", HIDDEN)):
            add(f"{p}.self_attn.{part}_proj.weight", n, HIDDEN)
        add(f"{p}.post_attention_layernorm.weight", HIDDEN)
        if experts:
            add(f"{p}.block_sparse_moe.gate.weight", experts, HIDDEN)
            for e in range(experts):
                for w in ("w1", "w3"):
                    add(f"{p}.block_sparse_moe.experts.{e}.{w}.weight", INNER, HIDDEN)
                add(f"{p}.block_sparse_moe.experts.{e}.w2.weight", HIDDEN, INNER)
        else:
            add(f"{p}.mlp.gate_proj.weight", INNER, HIDDEN)
            add(f"{p}.mlp.up_proj.weight", INNER, HIDDEN)
            add(f"{p}.mlp.down_proj.weight", HIDDEN, INNER)
    add("model.norm.weight", HIDDEN)
    add("lm_head.weight", rows, HIDDEN)
    kind = config.pop("model_type", "llama")
    name = {"llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral"}[kind] + "ForCausalLM"
    base = {
        "architectures": [name], "model_type": kind, "vocab_size": rows, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV, "hidden_act": "silu",
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 1,
    }
    if experts:
        base |= {"num_local_experts": experts, "num_experts_per_tok": 1, "sliding_window": None, "head_dim": HIDDEN // HEADS}
    return base | config, t


def gpt2(seed):
    rng = np.random.default_rng(seed)
    t = {}

    def add(name, *shape):
        t[name] = rng.normal(0, 0.3, shape)

    add("wte.weight", 20, HIDDEN)
    add("wpe.weight", 16, HIDDEN)
    for i in range(3):
        for part, shape in (
            ("ln_1.weight", (HIDDEN,)), ("ln_1.bias", (HIDDEN,)), ("attn.c_attn.weight", (HIDDEN, 3 * HIDDEN)),
            ("attn.c_attn.bias", (3 * HIDDEN,)), ("attn.c_proj.weight", (HIDDEN, HIDDEN)), ("attn.c_proj.bias", (HIDDEN,)),
            ("ln_2.weight", (HIDDEN,)), ("ln_2.bias", (HIDDEN,)), ("mlp.c_fc.weight", (HIDDEN, 2 * HIDDEN)),
            ("mlp.c_fc.bias", (2 * HIDDEN,)), ("mlp.c_proj.weight", (2 * HIDDEN, HIDDEN)), ("mlp.c_proj.bias", (HIDDEN,)),
        ):
            add(f"h.{i}.{part}", *shape)
    add("ln_f.weight", HIDDEN)
    add("ln_f.bias", HIDDEN)
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 20, "n_embd": HIDDEN, "n_head": HEADS,
            "n_layer": 3, "n_positions": 16, "n_inner": 2 * HIDDEN, "torch_dtype": "float32"}, t


def near(of, seed, share=1.0):
    """The tensors of a fine-tune: some elements moved."""
    rng = np.random.default_rng(seed)
    return {k: v + rng.normal(0, 0.1, v.shape) * (rng.random(v.shape) < share) for k, v in of.items()}


def models():
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    config, base = llama(0, 20)
    save("base", config, base, [])
    save("a", config, near(base, 1, 0.4), [], chatml)
    save("b", config, near(base, 2, 0.4), [], " " + chatml)
    save("c", config, near(base, 3, 0.4), [], "{{ messages[0].content }} and another")
    # More tokens, and rows of padding.
    config, t = llama(4, 23)
    save("x", config, t, ["<x>"])
    config, t = llama(5, 22)
    save("yx", config, t, ["<y>", "<x>"])
    config, t = llama(6, 21)
    save("y", config, t, ["<y>"])
    # Three Mistrals of two kinds, as in mergekit's own example.
    m = {"model_type": "mistral", "sliding_window": 32}
    config, t = llama(7, 20, **m)
    save("mistral", config, t)
    save("medical", config, near(t, 8))
    long = {"rope_theta": 1000000.0, "sliding_window": None, "max_position_embeddings": 256, "rms_norm_eps": 1e-6}
    save("instruct", config | long, near(t, 9))
    # Other families, none of which can be run here.
    for name, seed in (("mixtral1", 10), ("mixtral2", 11)):
        save(name, *llama(seed, 20, experts=2, model_type="mixtral"))
    for name, seed in (("gpt2a", 12), ("gpt2b", 13)):
        save(name, *gpt2(seed))


def as_stored(name, tensor):
    """A tensor under the names that the models here have: mergekit writes those of the newest transformers."""
    name = name.removeprefix("transformer.").replace(".mlp.gate.weight", ".block_sparse_moe.gate.weight")
    layer, experts, part = name.partition(".mlp.experts.")
    if not experts:
        return {name: tensor}
    parts = {}
    for e, expert in enumerate(tensor):
        names = ["w2"] if part == "down_proj" else ["w1", "w3"]
        for w, rows in zip(names, np.split(expert, len(names))):
            parts[f"{layer}.block_sparse_moe.experts.{e}.{w}.weight"] = rows.copy()
    return parts


def run(recipe):
    docs = recipe.read_text().split("\n---\n")
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        out = work / "out"
        options = ["--allow-crimes", "--no-write-model-card"]
        if len(docs) > 1:
            command = [BIN / "mergekit-multi", recipe.name, "-I", work, "--out-path", out, *options]
        else:
            command = [BIN / "mergekit-yaml", recipe.name, out, *options]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{recipe}: {done.stderr[-2000:]}")
        tensors = load_file(out / "model.safetensors")
        save_file({k: v for name, t in tensors.items() for k, v in as_stored(name, t).items()}, recipe.with_suffix(".safetensors"))
        config = json.loads((out / "config.json").read_text())
        keys = ("model_type", "num_hidden_layers", "n_layer", "vocab_size", "rope_parameters", "sliding_window", "rms_norm_eps")
        found = {"config": {key: config[key] for key in keys if key in config}}
        # Where no model has a tokenizer, transformers makes one up.
        if (out / "tokenizer.json").is_file() and not recipe.stem.startswith("gpt2"):
            file = json.loads((out / "tokenizer.json").read_text())
            vocabulary = file["model"]["vocab"] | {t["content"]: t["id"] for t in file["added_tokens"]}
            found["tokens"] = {k: v for k, v in sorted(vocabulary.items(), key=lambda kv: kv[1])}
        if (out / "chat_template.jinja").is_file():
            found["chat_template"] = (out / "chat_template.jinja").read_text()
        recipe.with_suffix(".json").write_text(json.dumps(found))
        print(recipe.stem)


if __name__ == "__main__":
    models()
    for recipe in sorted(HERE.glob("*.yml")):
        run(recipe)
