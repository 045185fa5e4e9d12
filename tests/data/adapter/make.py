"""Bakes merges as adapters with `dam`, and writes what others make of them: the weights that peft merges each adapter
to, and what numpy's exact singular value decomposition keeps of the difference.

usage: make.py DAM (the program; needs numpy torch transformers safetensors peft); writes beside itself.
"""
import json, os, shutil, subprocess, sys, tempfile
import numpy as np, torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

here = os.path.dirname(os.path.abspath(__file__))
data = os.path.join(here, "..")
dam = os.path.abspath(sys.argv[1])

# A fine-tune in which everything differs: matrices by rank 2, the tied embedding, norms and biases.
base, fine = os.path.join(data, "families/qwen2-bias-tied"), os.path.join(here, "fine")
shutil.rmtree(fine, ignore_errors=True)
os.makedirs(fine)
torch.manual_seed(5)
weights = {}
for name, w in load_file(os.path.join(base, "model.safetensors")).items():
    w = w.float()
    change = torch.randn(w.shape[0], 2) @ torch.randn(2, w.shape[1]) if w.dim() == 2 else torch.randn_like(w)
    weights[name] = (w + 0.05 * change).contiguous()
save_file(weights, os.path.join(fine, "model.safetensors"), metadata={"format": "pt"})
shutil.copy(os.path.join(base, "config.json"), fine)

CASES = {  # base, sources, what is done
    "exact": ("golden/model0", ["a=golden/model0+lora/plain", "b=golden/model0+lora/patterns"], "merge linear {} as=adapter rank=8"),
    "truncated": ("golden/base", ["base=golden/base", "golden/model0", "golden/model1"], "merge task_arithmetic {} as=adapter rank=3"),
    "biased": ("families/qwen2-bias-tied", ["base=families/qwen2-bias-tied", "adapter/fine"], "merge passthrough {} as=adapter rank=2"),
}
KEPT = ["layers.1.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.1.mlp.up_proj", "layers.1.self_attn.k_proj.bias",
        "layers.0.input_layernorm", "embed_tokens", "lm_head", "model.norm"]
tensors, shares = {}, {}
for name, (place, sources, verb) in CASES.items():
    with tempfile.TemporaryDirectory() as out:
        adapter, whole = os.path.join(out, "adapter"), os.path.join(out, "whole")
        load = "load " + " ".join(sources)
        plain = verb.format(whole).split(" as=")[0] + " dtype=f32"
        subprocess.run([dam, "-c", f"{load}; {verb.format(adapter)}; {plain}"], cwd=data, check=True)
        model = AutoModelForCausalLM.from_pretrained(os.path.join(data, place), dtype=torch.float32)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
        target = load_file(os.path.join(whole, "model.safetensors"))
        lost = whole_norm = 0.0
        for key, w in sorted(merged.items()):
            if any(part in key for part in KEPT): tensors[f"{name}/{key}"] = w.contiguous().clone()
            if key not in target: continue
            d = (target[key].double() - before[key].double()).numpy()
            whole_norm += (d ** 2).sum()
            if d.ndim == 2:
                s = np.linalg.svd(d, compute_uv=False)
                rank = int(verb.rsplit("rank=", 1)[1])
                shares[f"{name}/{key}"] = float(np.sqrt((s[:rank] ** 2).sum() / (s ** 2).sum())) if s[0] > 1e-9 else 1.0
                lost += (s[rank:] ** 2).sum()
            worst = (w - target[key]).abs().max().item()
            if name != "truncated": assert worst < 1e-5, (name, key, worst)
        shares[name] = float(np.sqrt(1 - lost / whole_norm))
        print(name, "peft's weights and the merge's differ by at most", max((merged[k] - target[k]).abs().max().item() for k in target), "kept", shares[name])
save_file(tensors, os.path.join(here, "expected.safetensors"))
json.dump({k: v for k, v in shares.items() if k.startswith("truncated")}, open(os.path.join(here, "shares.json"), "w"), indent=1)
