"""Makes the tokenizers of tests/models/gguf_out.rs, and what the gguf package says that its files must hold.

usage: make.py (needs torch transformers tokenizers safetensors gguf); writes beside itself.
"""
import glob, json, os
import gguf, numpy as np, torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = os.path.dirname(os.path.abspath(__file__))
families = os.path.join(here, "..", "families")
path = lambda *parts: os.path.join(here, *parts)

def fnv(data):
    """FNV-1a of 64 bits."""
    h = 0xcbf29ce484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return f"{h:016x}"

# 1. Tensors: those of tests/data/families, named, turned and quantised as llama.cpp's converter does it.
NAMES = {"llama-biases": gguf.MODEL_ARCH.LLAMA, "llama-sharded": gguf.MODEL_ARCH.LLAMA, "mistral-window": gguf.MODEL_ARCH.LLAMA,
    "qwen2-bias-tied": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3, "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3": gguf.MODEL_ARCH.GEMMA3, "phi3": gguf.MODEL_ARCH.PHI3, "phi3-long": gguf.MODEL_ARCH.PHI3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3}
listing = {}
for name, arch in NAMES.items():
    config = json.load(open(os.path.join(families, name, "config.json")))
    weights = {}
    for file in sorted(glob.glob(os.path.join(families, name, "*.safetensors"))):
        weights.update(load_file(file))
    map = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    found = {}
    def turn(w, heads):
        """llama.cpp's rotation turns neighbours, not halves."""
        return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
    for key, w in weights.items():
        new = map.get_name(key, try_suffixes=(".weight", ".bias"))
        if new == "output.weight" and config.get("tie_word_embeddings"):
            continue
        stored = {torch.float32: Q.F32, torch.float16: Q.F16, torch.bfloat16: Q.BF16}[w.dtype]
        w = w.float().numpy()
        if arch in (gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.SMOLLM3) and "q_proj" in key:
            w = turn(w, config["num_attention_heads"])
        if arch in (gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.SMOLLM3) and "k_proj" in key:
            w = turn(w, config["num_key_value_heads"])
        if name.startswith("gemma") and key.endswith("norm.weight"):
            w = w + 1
        found[new] = {}
        for asked in ["", "f16", "bf16", "f32", "q8_0"]:
            kind = Q.F32 if w.ndim == 1 else stored if asked == "" else Q[asked.upper()]
            if kind == Q.Q8_0 and w.shape[-1] % 32:
                kind = Q.F16
            data = gguf.quants.quantize(np.ascontiguousarray(w), kind)
            found[new][asked or "stored"] = [kind.name, list(w.shape), fnv(data.tobytes())]
    listing[name] = found
json.dump(listing, open(path("tensors.json"), "w"), separators=(",", ":"))

# 2. Tokenizers.
text = ["Hello world, it's a test. We'll see: 12 plus 7 is 19! foo_bar(x) != y;", "日本語 のテキスト 十二足す七は十九", "the the the and and of of in in to to", "  spaces\n\nlines\t tabs"] * 4
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
def split(rule):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(rule), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
def byte_level(name, pre, special, normalizer=None, ignore=False, post=None):
    t = Tokenizer(models.BPE(ignore_merges=ignore))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer: t.normalizer = normalizer
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if post: t.post_processor = post(t)
    t.add_tokens([AddedToken("<tool>", normalized=False, special=False)])
    t.save(path(name + ".json"))
begin = lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[("<|begin|>", t.token_to_id("<|begin|>"))])])
byte_level("llama3", split(LLAMA3), ["<|begin|>", "<|end|>", "<|eot|>"], ignore=True, post=begin)
byte_level("qwen2", split(QWEN2), ["<|end|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC())
byte_level("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|end|>"])
byte_level("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), ["<|end|>"])
# A rule that llama.cpp has no name for.
byte_level("unknown", split(r"[0-9]+|[^0-9]+"), ["<|end|>"])

def sentencepiece(name, legacy):
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    words = ["\u2581t", "he", "\u2581the", "in", "\u2581a", "nd", "\u2581and", "\u2581in", "er", "lo", "llo", "\u2581He", "\u2581Hello", "\u2581\u2581"]
    letters = sorted(set("\u2581thenadirloHw123.,"))
    pieces += words + letters
    score = {p: -float(i) for i, p in enumerate(pieces[259:])}
    vocab = {p: i for i, p in enumerate(pieces)}
    merges = []
    for p in words:
        local = [(p[:i], p[i:]) for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
        merges += [(l, r, score[p]) for l, r in sorted(local, key=lambda x: (vocab[x[0]], vocab[x[1]]))]
    merges = [(l, r) for l, r, _ in sorted(merges, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ["<unk>", "<s>", "</s>"]])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    t.save(path(name + ".json"))
sentencepiece("spm-legacy", True)
sentencepiece("spm", False)
