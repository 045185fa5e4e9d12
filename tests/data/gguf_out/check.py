"""Has the gguf package and transformers read GGUF files that this program writes: tensors, logits, text.

usage: check.py DAM (the program; needs torch transformers safetensors gguf); writes tokens.json beside itself.
Run in the root of the repository. `tests/models/gguf_out.rs` has the same models in with_tokenizer and known.
"""
import json, os, re, shutil, subprocess, sys, tempfile
import gguf, numpy as np, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

here = os.path.dirname(os.path.abspath(__file__))
dam = os.path.abspath(sys.argv[1])
exec(re.search(r"def fnv.*?return[^\n]*\n", open(os.path.join(here, "make.py")).read(), re.S).group(0))
families = os.path.join(here, "..", "families")
out = tempfile.mkdtemp()

def bake(source, name, dtype):
    file = os.path.join(out, name)
    run = subprocess.run([dam, "-c", f"load a={source} b={source}; merge linear {file} {dtype}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return file

listing = json.load(open(os.path.join(here, "tensors.json")))
ids = (torch.arange(12) * 7 % 64)[None]
for name, tensors in listing.items():
    source = os.path.join(out, name)
    shutil.copytree(os.path.join(families, name), source)
    config = json.load(open(os.path.join(source, "config.json")))
    if name in ("gemma2", "gemma3"): config["query_pre_attn_scalar"] = 16
    if name == "smollm3": config.update(no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0])
    if name == "gemma3": config["layer_types"] = ["sliding_attention"] * 2
    json.dump(config, open(os.path.join(source, "config.json"), "w"))
    for dtype in ["", "dtype=f32", "dtype=f16", "dtype=bf16", "dtype=q8_0"]:
        file = bake(source, f"{name}-{dtype[6:] or 'stored'}.gguf", dtype)
        reader = gguf.GGUFReader(file)
        found = {t.name: [t.tensor_type.name, [int(n) for n in reversed(t.shape)], fnv(t.data.tobytes())] for t in reader.tensors}
        for key, kinds in tensors.items():
            assert found[key] == kinds[dtype[6:] or "stored"], (name, key, dtype)
    file = os.path.join(out, f"{name}-f32.gguf")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    n = 5 if name == "mistral-window" else 12
    # With the configuration that transformers makes of the file, of which it does not read all; and with the model's own.
    for how, more in [("its own reading of the keys", {}), ("the model's configuration", {"config": model.config})]:
        try:
            back = AutoModelForCausalLM.from_pretrained(out, gguf_file=os.path.basename(file), dtype=torch.float32, attn_implementation="eager", **more).eval()
        except Exception as error:
            print(f"{name}: transformers with {how} does not read it: {str(error)[:100]}")
            continue
        with torch.no_grad():
            a, b = model(ids[:, :n]).logits, back(ids[:, :n]).logits
        print(f"{name}: {len(found)} tensors as gguf has them; logits of transformers with {how} differ by {(a - b).abs().max() / a.abs().max():.1e}")

texts = re.findall(r'^    "(.*)",$', re.search(r"const TEXTS.*?\n\];", open(os.path.join(here, "../../gguf_out.rs")).read(), re.S).group(0), re.M)
texts = [re.sub(r"\\u\{([0-9a-f]+)\}", lambda m: chr(int(m[1], 16)), t).replace("\\n", "\n").replace("\\t", "\t") for t in texts]
tokens = {}
for name, rows in [("llama3", 300), ("qwen2", 291), ("gpt2", 320), ("smollm", 291), ("spm", 300), ("spm-legacy", 300)]:
    source = os.path.join(out, "t-" + name)
    os.makedirs(source)
    shutil.copy(os.path.join(here, name + ".json"), os.path.join(source, "tokenizer.json"))
    chat = {"llama3": {"bos_token": "<|begin|>", "eos_token": "<|eot|>"}, "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|end|>"}}.get(name)
    chat = chat or ({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} if "spm" in name else {"bos_token": "<|end|>", "eos_token": "<|end|>"})
    json.dump(chat, open(os.path.join(source, "tokenizer_config.json"), "w"))
    shape = dict(vocab_size=rows, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    json.dump({"model_type": "llama", **shape, "tie_word_embeddings": True}, open(os.path.join(source, "config.json"), "w"))
    layer = lambda part: f"model.layers.0.{part}.weight"
    weights = {"model.embed_tokens.weight": (rows, 8), "model.norm.weight": (8,), layer("input_layernorm"): (8,), layer("post_attention_layernorm"): (8,),
        layer("self_attn.q_proj"): (8, 8), layer("self_attn.k_proj"): (4, 8), layer("self_attn.v_proj"): (4, 8), layer("self_attn.o_proj"): (8, 8),
        layer("mlp.gate_proj"): (8, 8), layer("mlp.up_proj"): (8, 8), layer("mlp.down_proj"): (8, 8)}
    save_file({k: torch.ones(s) for k, s in weights.items()}, os.path.join(source, "model.safetensors"))
    file = bake(source, f"t-{name}.gguf", "")
    original = AutoTokenizer.from_pretrained(source)
    try:
        back = AutoTokenizer.from_pretrained(out, gguf_file=os.path.basename(file))
    except Exception as error:
        print(f"{name}: transformers does not read the tokenizer: {str(error)[:150]}")
        back = original
    tokens[name] = {}
    for text in texts:
        a, b = original(text)["input_ids"], back(text)["input_ids"]
        if a == b: tokens[name][text] = a
        else: print(f"{name}: {text!r}: {original.convert_ids_to_tokens(a)} and {back.convert_ids_to_tokens(b)}")
    print(f"{name}: {len(tokens[name])} of {len(texts)} texts split alike")
json.dump(tokens, open(os.path.join(here, "tokens.json"), "w"), ensure_ascii=False, indent=0)
