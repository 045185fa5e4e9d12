"""Makes the files of tests/models/formats.rs, and what PyTorch and transformers make of them.

usage: make.py (needs torch transformers safetensors); writes beside itself.
"""
import json, os, shutil
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

here = os.path.dirname(os.path.abspath(__file__))
g = torch.Generator().manual_seed(3)
randn = lambda *shape: torch.randn(*shape, generator=g)
path = lambda *parts: os.path.join(here, *parts)

# 1. Tensors of every kind, as torch.save writes them.
whole = randn(6, 10)
kinds = {
    "f32.weight": whole,
    "f16.weight": randn(3, 5).half(),
    "bf16.weight": randn(3, 5).bfloat16(),
    "f64.weight": randn(3, 5).double() / 3,
    "transposed.weight": randn(7, 4).t(),
    "transposed16.weight": randn(7, 4).bfloat16().t(),
    "sliced.weight": whole[1:5, 2:8:2],
    "part.weight": whole[2:4],
    "cube.weight": randn(2, 3, 4).permute(2, 0, 1),
    "parameter.weight": torch.nn.Parameter(randn(4, 4)),
    "frozen.weight": torch.nn.Parameter(randn(4), requires_grad=False),
    "scalar": torch.tensor(1.5),
    "empty.weight": torch.zeros(0, 4),
}
buffers = {"position_ids": torch.arange(12).expand(1, -1), "mask": torch.ones(2, 2, dtype=torch.bool)}
expected = {k: v.detach().float().clone().contiguous() for k, v in kinds.items()}
state = {**kinds, **buffers}
torch.save(state, path("kinds.bin"))
torch.save(state, path("legacy.bin"), _use_new_zipfile_serialization=False)
torch.save({"epoch": 3, "loss": 0.5, "state_dict": state, "optimizer": {"lr": [1e-3]}}, path("wrapped.bin"), pickle_protocol=4)
save_file(expected, path("kinds.safetensors"))

# What is refused.
torch.save({"x.weight": torch.zeros(1).expand(1000, 1000)}, path("repeated.bin"))
torch.save({"x.weight": torch.quantize_per_tensor(randn(4, 4), 0.1, 0, torch.qint8)}, path("quantised.bin"))
torch.save(torch.nn.Linear(2, 2), path("module.bin"))
torch.save([randn(2)], path("list.bin"))

# 2. A tiny llama, in float8 in the ways in which float8 is published.
config = dict(vocab_size=40, hidden_size=40, intermediate_size=56, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False)
torch.manual_seed(5)
model = AutoModelForCausalLM.from_config(LlamaConfig(**config)).eval()
ids = torch.randint(0, 40, (1, 12), generator=g)
expected = {"input_ids": ids.to(torch.int32)}
dequantize = Fp8Dequantize(None)._dequantize_one

def publish(name, quantization, quantise):
    """`quantise` gives tensors to store for a linear weight, and the weight that they stand for."""
    stored, plain = {}, {}
    for key, w in model.state_dict().items():
        w = (w * 4 if w.dim() == 2 else w).bfloat16()
        stored[key], plain[key] = w.contiguous(), w.float()
        if "_proj.weight" in key:
            del stored[key]
            more, plain[key] = quantise(key, w.float())
            stored.update({k: v.contiguous() for k, v in more.items()})
    os.makedirs(path(name), exist_ok=True)
    save_file(stored, path(name, "model.safetensors"), metadata={"format": "pt"})
    about = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config, "torch_dtype": "bfloat16", "quantization_config": quantization}
    json.dump(about, open(path(name, "config.json"), "w"), indent=1)
    model_of = AutoModelForCausalLM.from_config(LlamaConfig(**config)).float().eval()
    model_of.load_state_dict(plain)
    with torch.no_grad():
        expected[name] = model_of(input_ids=ids).logits[0].contiguous()
    for key in ["model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight"]:
        expected[f"{name}.{key}"] = plain[key].contiguous()

def blocks(dtype, most, size=32):
    def quantise(key, w):
        rows, columns = w.shape
        down, across = -(-rows // size), -(-columns // size)
        padded = torch.zeros(down * size, across * size)
        padded[:rows, :columns] = w
        tiles = padded.reshape(down, size, across, size)
        scale = tiles.abs().amax((1, 3)) / most
        codes = (tiles / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns].to(dtype)
        # transformers' own where the blocks divide the matrix.
        spread = scale.repeat_interleave(size, 0).repeat_interleave(size, 1)[:rows, :columns]
        back = codes.float() * spread
        if rows % size == 0 and columns % size == 0:
            assert torch.equal(back, dequantize(codes, scale))
        return {key: codes, key + "_scale_inv": scale}, back
    return quantise

def channels(key, w):
    scale = (w.abs().amax(1, keepdim=True) / 448).bfloat16()
    codes = (w / scale.float()).to(torch.float8_e4m3fn)
    assert torch.equal(codes.float() * scale.float(), dequantize(codes, scale, torch.float32))
    return {key: codes, key + "_scale": scale}, codes.float() * scale.float()

def tensor(key, w):
    scale = w.abs().amax() / 57344
    codes = (w / scale).to(torch.float8_e5m2)
    stem = key.removesuffix("weight")
    return {key: codes, key + "_scale": scale, stem + "input_scale": torch.tensor(0.25)}, codes.float() * scale

publish("fp8-block", {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [32, 32],
    "modules_to_not_convert": ["lm_head"]}, blocks(torch.float8_e4m3fn, 448))
publish("fp8-channel", {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {
    "targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}}}}, channels)
publish("fp8-tensor", {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, tensor)

# 3. The same in .bin files with an index, as older checkpoints have it.
os.makedirs(path("bin-shards"), exist_ok=True)
state = {k: v.bfloat16().contiguous() for k, v in model.state_dict().items()}
names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
where = {k: names[i >= len(state) // 2] for i, k in enumerate(state)}
for name in names:
    torch.save({k: v for k, v in state.items() if where[k] == name}, path("bin-shards", name))
json.dump({"metadata": {}, "weight_map": where}, open(path("bin-shards", "pytorch_model.bin.index.json"), "w"), indent=1)
json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **config}, open(path("bin-shards", "config.json"), "w"), indent=1)
model_of = AutoModelForCausalLM.from_pretrained(path("bin-shards"), dtype=torch.float32, use_safetensors=False).eval()
with torch.no_grad():
    expected["bin-shards"] = model_of(input_ids=ids).logits[0].contiguous()

codes = torch.arange(256, dtype=torch.uint8)
expected["e4m3"] = codes.view(torch.float8_e4m3fn).float().nan_to_num(-1.0)
expected["e5m2"] = codes.view(torch.float8_e5m2).float().nan_to_num(-1.0, -2.0, -3.0)
save_file(expected, path("expected.safetensors"))
