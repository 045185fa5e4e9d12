"""Makes tiny models, adapters of many kinds for them, and what PEFT makes of each.

usage: make.py (needs torch transformers safetensors peft; numbers of PEFT 0.21.2, transformers 5.24.0); writes beside
itself. expected.safetensors has, for each case, `CASE/NAME` for the merged weights that differ from the base's (of the
first layer and outside layers, the others speak through the logits), and `CASE/logits` of the model with the adapter on, unmerged, for the tokens 1 to 8. Where PEFT's merged weights are not
those of that model, since it adds to one tensor what belongs to one of its two uses, only the logits are kept.
"""
import json, os, shutil, torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

here = os.path.dirname(os.path.abspath(__file__))
IDS = torch.arange(1, 9)[None]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
place = lambda name: os.path.join(here, name)


def base(name, config, dtype=torch.float32):
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config)
    for key, p in model.named_parameters():
        if p.dim() > 1: p.data = torch.randn_like(p) * 0.3
        elif "bias" in key: p.data = torch.randn_like(p) * 0.1
    shutil.rmtree(place(name), ignore_errors=True)
    model.to(dtype).save_pretrained(place(name))
    os.remove(os.path.join(place(name), "generation_config.json"))


def llama(**more):
    return LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, **more)


base("untied", llama(attention_bias=True, tie_word_embeddings=False))
base("half", llama(tie_word_embeddings=False), torch.bfloat16)
base("tied", llama(tie_word_embeddings=True))
base("gpt2", GPT2Config(vocab_size=24, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2))

lora = lambda **config: LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, **config})
# name: base, configuration, whether PEFT's merged weights are those of its model, rows after resizing.
CASES = {
    "pissa": ("untied", lora(init_lora_weights="pissa", target_modules=LINEARS + ["lm_head"]), True, None),
    "pissa-half": ("half", lora(init_lora_weights="pissa", target_modules=LINEARS, rank_pattern={"down_proj": 2}), True, None),
    # Ranks beyond the weight's: PEFT keeps those there are, and scales by the configured one.
    "pissa-wide": ("untied", lora(r=40, init_lora_weights="pissa", target_modules=["q_proj", "up_proj"]), True, None),
    "olora-wide": ("untied", lora(r=40, init_lora_weights="olora", target_modules=["q_proj", "up_proj"]), True, None),
    "pissa-niter": ("untied", lora(init_lora_weights="pissa_niter_4", target_modules=["q_proj", "up_proj"]), False, None),
    "olora": ("untied", lora(init_lora_weights="olora", target_modules=LINEARS, use_rslora=True, alpha_pattern={"q_proj": 3},
                             rank_pattern={"layers\\.1\\..*proj": 3}), True, None),
    "dora": ("untied", lora(use_dora=True, target_modules=LINEARS + ["embed_tokens"], use_rslora=True,
                            rank_pattern={".*(k|v)_proj": 2}, alpha_pattern={"self_attn.(q|k)_proj": 9}), True, None),
    "dora-pissa": ("untied", lora(use_dora=True, init_lora_weights="pissa", target_modules=["q_proj"]), True, None),
    "regex": ("untied", lora(target_modules=r"(?!.*\.1\..*up).*\.(q|up)_proj", exclude_modules=r".*layers\.0.*up_proj",
                             rank_pattern={"^model.layers.0.*": 2, "q_proj": 3},
                             alpha_pattern={"(layers\\.[1-9])\\..*": 5, "q_proj": 7}), True, None),
    "layers": ("untied", lora(target_modules=["q_proj", "up_proj"], layers_to_transform=[1], layers_pattern="layers"), True, None),
    "biases": ("untied", lora(target_modules=["q_proj", "up_proj"], bias="all"), True, None),
    "lora-bias": ("untied", lora(target_modules=["q_proj", "v_proj"], lora_bias=True), True, None),
    "tokens": ("untied", lora(target_modules=["q_proj"], trainable_token_indices=[7, 2]), True, None),
    "tokens-by-module": ("untied", lora(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3], "lm_head": [5, 4]}), True, None),
    "tokens-alone": ("untied", TrainableTokensConfig(token_indices=[1, 9], task_type="CAUSAL_LM"), True, None),
    "mica": ("untied", lora(init_lora_weights="mica", target_modules=["q_proj"]), True, None),
    "velora": ("untied", lora(velora_config={"num_groups": 4}, target_modules=["q_proj"]), True, None),
    "resized": ("untied", lora(target_modules=["q_proj"]), True, 26),
    "resized-low-rank": ("untied", lora(target_modules=["q_proj", "embed_tokens", "lm_head"]), True, 27),
    "replicated": ("untied", lora(target_modules=["q_proj", "down_proj"], layer_replication=[[0, 2], [1, 2]]), False, None),
    "transposed": ("gpt2", lora(target_modules=["c_attn", "c_proj", "wte"], fan_in_fan_out=True), False, None),
    "transposed-dora": ("gpt2", lora(use_dora=True, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True), True, None),
    "transposed-pissa": ("gpt2", lora(init_lora_weights="pissa", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True), True, None),
    "head-saved": ("tied", lora(target_modules=["q_proj"], modules_to_save=["lm_head"]), True, None),
    "head-low-rank": ("tied", lora(target_modules=["q_proj", "lm_head"]), False, None),
    "head-pissa": ("tied", lora(target_modules=["lm_head"], init_lora_weights="pissa"), False, None),
    "head-pissa-bare": ("tied", lora(target_modules=["q_proj", "lm_head"], init_lora_weights="pissa"), False, None),
    "embedding-saved": ("tied", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), True, None),
    "embedding-low-rank": ("tied", lora(target_modules=["q_proj", "embed_tokens"]), False, None),
    "both-saved": ("tied", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), True, None),
    "both-low-rank": ("tied", lora(target_modules=["embed_tokens", "lm_head"]), False, None),
    "kept-low-rank": ("tied", lora(target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True), False, None),
    "kept-saved": ("tied", lora(target_modules=["q_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True), False, None),
    "tokens-tied": ("tied", lora(target_modules=["q_proj"], trainable_token_indices=[7, 2]), True, None),
    "tokens-of-head": ("tied", lora(target_modules=["q_proj"], trainable_token_indices={"lm_head": [6]}), False, None),
    "tokens-apart": ("tied", lora(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3], "lm_head": [5, 4]}), False, None),
    "resized-tied": ("tied", lora(target_modules=["q_proj"]), True, 26),
}
PARTS = ["lora_", "modules_to_save", "trainable_tokens_delta"]


def opened(name, rows=None):
    model = AutoModelForCausalLM.from_pretrained(place(name), dtype=torch.float32)
    if rows: model.resize_token_embeddings(rows, mean_resizing=False)
    return model


expected = {}
for name, (on, config, is_merged, rows) in CASES.items():
    torch.manual_seed(3)
    model = get_peft_model(opened(on, rows), config)
    model.peft_config["default"].base_model_name_or_path = place(on)
    trained = lambda key: any(part in key for part in PARTS) or (getattr(config, "bias", "") == "all" and "bias" in key)
    for key, p in model.named_parameters():
        if trained(key) and "original_module" not in key: p.data.add_(torch.randn_like(p) * 0.2)
    shutil.rmtree(place(name), ignore_errors=True)
    model.save_pretrained(place(name), save_embedding_layers=False if "bare" in name else "auto")
    os.remove(os.path.join(place(name), "README.md"))
    path = os.path.join(place(name), "adapter_config.json")
    text = json.load(open(path))
    text["base_model_name_or_path"] = "tiny/" + on
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(text.get(key), list): text[key].sort()
    json.dump(text, open(path, "w"), indent=1, sort_keys=False)
    plain = {k: v.clone() for k, v in opened(on).state_dict().items()}
    torch.manual_seed(5)
    model = PeftModel.from_pretrained(opened(on, rows), place(name)).eval()
    with torch.no_grad():
        if on != "gpt2" and name != "pissa-niter": expected[f"{name}/logits"] = model(IDS).logits[0].clone()
        if name == "pissa-niter":
            # PEFT draws its random decomposition anew each time: exact here, and how far that is from PEFT's.
            worst = 0
            for key in [k for k in plain if "q_proj.weight" in k or "up_proj.weight" in k]:
                layer = model.base_model.model.get_submodule(key.removesuffix(".weight"))
                u, s, v = torch.linalg.svd(plain[key].double())
                low = 1.5 * layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
                exact = plain[key].double() - (u[:, :4] * s[:4]) @ v[:4] + low
                worst = max(worst, (exact - layer.base_layer.weight - low).abs().max().item())
                expected[f"{name}/{key}"] = exact.float()
            print("pissa_niter_4: PEFT's base is within", worst)
        if name == "transposed":
            # As above, but for its tied embedding.
            expected.update({f"{name}/{k}": (plain[k] + model.base_model.model.get_submodule(k.removesuffix(".weight")).get_delta_weight("default")).clone()
                             for k in plain if k.endswith(("c_attn.weight", "c_proj.weight", "wte.weight"))})
        if is_merged:
            merged = model.merge_and_unload()
            for key, p in merged.state_dict().items():
                if ".layers.1." in key and name not in ("regex", "layers"): continue
                if key not in plain or plain[key].shape != p.shape or not torch.equal(plain[key], p):
                    expected[f"{name}/{key}"] = p.contiguous().clone()
# One on another, of which the second is relative to the first's result.
shutil.rmtree(place("stacked"), ignore_errors=True); shutil.copytree(place("pissa-niter"), place("stacked"))
text = json.load(open(os.path.join(place("stacked"), "adapter_config.json")))
text["init_lora_weights"] = "pissa"
json.dump(text, open(os.path.join(place("stacked"), "adapter_config.json"), "w"), indent=1)
model = PeftModel.from_pretrained(opened("untied"), place("dora")).merge_and_unload()
model = PeftModel.from_pretrained(model, place("stacked")).eval()
with torch.no_grad(): expected["stacked/logits"] = model(IDS).logits[0].clone()
save_file(expected, place("expected.safetensors"))
# The same adapter as PyTorch pickles it, which is how PEFT saved before safetensors.
torch.save(load_file(os.path.join(place("layers"), "adapter_model.safetensors")), place("layers.bin"))
