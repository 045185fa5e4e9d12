"""Makes the GGUF files of these tests, and what PyTorch makes of them.

usage: make.py (needs torch transformers safetensors gguf); writes beside itself.
"""
import json, os
import gguf, numpy as np, torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

here = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(7)
expected = {}

# 1. One tensor in every block format. gguf writes the simple ones; of the k-quants it only reads, so their
# blocks are random bytes with plain scales.
writer = gguf.GGUFWriter(os.path.join(here, "formats.gguf"), "llama")
HALVES = {Q.Q2_K: (80, 82), Q.Q3_K: (108,), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,)}
for kind in [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0]:
    data = gguf.quants.quantize(rng.standard_normal((3, 768)).astype(np.float32), kind)
    writer.add_tensor(kind.name.lower() + ".weight", data, raw_dtype=kind)
    expected[kind.name.lower() + ".weight"] = torch.from_numpy(gguf.quants.dequantize(data, kind).copy())
for kind, halves in HALVES.items():
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (3, 768 // block, size), dtype=np.uint8)
    for at in halves:
        data[:, :, at:at + 2] = np.frombuffer(rng.uniform(0.01, 0.1, (3, 768 // block)).astype(np.float16).tobytes(), np.uint8).reshape(3, -1, 2)
    data = data.reshape(3, -1)
    writer.add_tensor(kind.name.lower() + ".weight", data, raw_dtype=kind)
    expected[kind.name.lower() + ".weight"] = torch.from_numpy(gguf.quants.dequantize(data, kind).copy())
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()

# 2. Tiny whole models.
ids = torch.randint(0, 96, (1, 12), generator=torch.Generator().manual_seed(1))
expected["input_ids"] = ids.to(torch.int32)
letters = ["<unk>", "<s>", "</s>"] + [chr(c) for c in range(33, 33 + 92)] + ["ab"]
def model(name, arch, kind, bias=False, tied=False, spm=False):
    path = os.path.join(here, name + ".gguf")
    w = gguf.GGUFWriter(path, arch)
    hidden, heads, kv, layers, inner = 64, 4, 2, 2, 96
    w.add_context_length(64); w.add_embedding_length(hidden); w.add_block_count(layers); w.add_feed_forward_length(inner)
    w.add_head_count(heads); w.add_head_count_kv(kv); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(10000.0); w.add_vocab_size(96)
    w.add_rope_dimension_count(hidden // heads)
    if spm:
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(60)] + ["\u2581", "a", "b", "c", "ab", "\u2581a", "\u2581ab", "abc"]
        tokens += [f"t{i}" for i in range(96 - len(tokens))]
        w.add_tokenizer_model("llama"); w.add_token_list(tokens)
        w.add_token_scores([0.0] * 63 + [-float(i) for i in range(33)])
        w.add_token_types([2, 3, 3] + [6] * 60 + [1] * 33)
        w.add_add_bos_token(True)
    else:
        w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("smollm"); w.add_token_list(letters); w.add_token_merges(["a b"])
        w.add_token_types([2, 3, 3] + [1] * 93)
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0)
    w.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    def put(key, *shape, scale=0.1, plain=False):
        x = (rng.standard_normal(shape) * scale).astype(np.float32)
        k = Q.F32 if plain else kind
        w.add_tensor(key, gguf.quants.quantize(x, k), raw_dtype=k)
    def norm(key): w.add_tensor(key, (1 + 0.1 * rng.standard_normal(hidden)).astype(np.float32))
    put("token_embd.weight", 96, hidden, scale=1.0); norm("output_norm.weight")
    if not tied: put("output.weight", 96, hidden)
    d = hidden // heads
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight"); norm(f"blk.{i}.ffn_norm.weight")
        put(f"blk.{i}.attn_q.weight", hidden, hidden); put(f"blk.{i}.attn_k.weight", kv * d, hidden); put(f"blk.{i}.attn_v.weight", kv * d, hidden)
        put(f"blk.{i}.attn_output.weight", hidden, hidden)
        put(f"blk.{i}.ffn_gate.weight", inner, hidden); put(f"blk.{i}.ffn_up.weight", inner, hidden); put(f"blk.{i}.ffn_down.weight", hidden, inner)
        if bias:
            for part, rows in [("q", hidden), ("k", kv * d), ("v", kv * d)]: put(f"blk.{i}.attn_{part}.bias", rows, plain=True)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    m = AutoModelForCausalLM.from_pretrained(here, gguf_file=name + ".gguf", dtype=torch.float32).eval()
    with torch.no_grad(): expected[name] = m(input_ids=ids).logits[0].contiguous()
model("llama", "llama", Q.Q8_0, spm=True)
model("qwen2", "qwen2", Q.Q4_1, bias=True, tied=True)
tok = AutoTokenizer.from_pretrained(here, gguf_file="llama.gguf")
texts = ["abc ab", " a  abcab", "cab"]
json.dump({t: tok(t)["input_ids"] for t in texts}, open(os.path.join(here, "tokens.json"), "w"), indent=1)
save_file(expected, os.path.join(here, "expected.safetensors"))
