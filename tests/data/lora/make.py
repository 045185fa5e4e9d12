"""Makes LoRA adapters for golden/model0 and the weights that peft merges them to.

usage: make.py (needs torch transformers safetensors peft); writes beside itself.
"""
import os, shutil, torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

here = os.path.dirname(os.path.abspath(__file__))
base = os.path.join(here, "..", "golden", "model0")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "plain": dict(r=4, lora_alpha=8, target_modules=LINEARS),
    "patterns": dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2},
                     alpha_pattern={"layers.1.self_attn.q_proj": 20}, use_rslora=True),
    "whole": dict(r=2, lora_alpha=2, target_modules=["v_proj", "embed_tokens"], modules_to_save=["lm_head"]),
}
expected = {}
for name, config in CASES.items():
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", **config))
    for key, p in model.named_parameters():
        if "lora_" in key or "modules_to_save" in key: p.data = torch.randn_like(p) * 0.2
    shutil.rmtree(os.path.join(here, name), ignore_errors=True)
    model.save_pretrained(os.path.join(here, name))
    os.remove(os.path.join(here, name, "README.md"))
    for key, p in model.merge_and_unload().state_dict().items():
        if p.dtype == torch.float32: expected[f"{name}/{key}"] = p.contiguous().clone()
save_file(expected, os.path.join(here, "expected.safetensors"))
