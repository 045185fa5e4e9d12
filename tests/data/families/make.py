"""Makes the checkpoints and logits beside this file with PyTorch and transformers.

    pip install torch transformers safetensors && python make.py

Random weights, seeded; only the numbers are of interest. Written with torch 2.15, transformers 5.23; those from olmo2 on with 5.24, which gives the same of all others.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Ernie4_5Config, Ernie4_5ForCausalLM, Exaone4Config, Exaone4ForCausalLM, Gemma2Config, Gemma2ForCausalLM,
    Gemma3ForCausalLM, Gemma3TextConfig, GemmaConfig, GemmaForCausalLM, Glm4Config, Glm4ForCausalLM, GlmConfig,
    GlmForCausalLM, GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
    Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config,
    Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM,
)

HERE = Path(__file__).parent
SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, attn_implementation="eager",
)
TINY = {**SMALL, "hidden_size": 16, "intermediate_size": 24}
LOCAL_GLOBAL = dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e6),
                    sliding_attention=dict(rope_type="default", rope_theta=1e4))
OLMO3 = dict(full_attention=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32),
             sliding_attention=dict(rope_type="default", rope_theta=1e4))
# The sequences are longer than the original context, so the long factors count.
LONG = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0, 1.5], long_factor=[1.25, 3.0],
            original_max_position_embeddings=8, partial_rotary_factor=0.5)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
# Pairs up to 1 stay, those from 6 of 8 on are divided.
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=64, beta_fast=4.0, beta_slow=0.5)

MODELS = {
    "mistral-window": (MistralForCausalLM, MistralConfig(**SMALL, head_dim=16, sliding_window=5), "float32", "10GB"),
    "qwen2-bias-tied": (Qwen2ForCausalLM, Qwen2Config(**SMALL, tie_word_embeddings=True), "bfloat16", "10GB"),
    "llama-sharded": (LlamaForCausalLM, LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters=LLAMA3), "float16", "15KB"),
    "llama-biases": (LlamaForCausalLM, LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True), "float32", "10GB"),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SMALL, head_dim=16), "float32", "10GB"),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SMALL, head_dim=16, sliding_window=5, query_pre_attn_scalar=24,
                                               attn_logit_softcapping=5.0, final_logit_softcapping=4.0), "float32", "10GB"),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=5, query_pre_attn_scalar=24,
                                                   layer_types=["sliding_attention", "full_attention"],
                                                   final_logit_softcapping=4.0,
                                                   rope_parameters=LOCAL_GLOBAL), "float32", "10GB"),
    "phi3": (Phi3ForCausalLM, Phi3Config(**SMALL, sliding_window=7, pad_token_id=0), "float32", "10GB"),
    "phi3-long": (Phi3ForCausalLM, Phi3Config(**SMALL, original_max_position_embeddings=8, rope_parameters=LONG,
                                              pad_token_id=0), "float32", "10GB"),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**{**SMALL, "num_hidden_layers": 4}, no_rope_layer_interval=2,
                                                  pad_token_id=0), "float32", "10GB"),
    "gemma": (GemmaForCausalLM, GemmaConfig(**SMALL, head_dim=16), "float32", "10GB"),
    # Only the second layer has a window.
    "qwen3-yarn": (Qwen3ForCausalLM, Qwen3Config(**SMALL, head_dim=16, rope_parameters=YARN, attention_bias=True,
                                                 use_sliding_window=True, sliding_window=5, max_window_layers=1),
                   "float32", "10GB"),
    # Layers without positions have a window.
    "smollm3-window": (SmolLM3ForCausalLM, SmolLM3Config(**SMALL, no_rope_layers=[1, 0], use_sliding_window=True,
                                                         sliding_window=5, pad_token_id=0), "float32", "10GB"),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**TINY, pad_token_id=0, eos_token_id=2), "bfloat16", "10GB"),
    "granite": (GraniteForCausalLM, GraniteConfig(**TINY, embedding_multiplier=3.0, residual_multiplier=0.7,
                                                  attention_multiplier=0.2, logits_scaling=4.0, tie_word_embeddings=True), "bfloat16", "10GB"),
    "glm4": (Glm4ForCausalLM, Glm4Config(**TINY, head_dim=8, pad_token_id=0, eos_token_id=2), "bfloat16", "10GB"),
    "glm": (GlmForCausalLM, GlmConfig(**TINY, head_dim=8, attention_bias=False, pad_token_id=0, eos_token_id=2), "bfloat16", "10GB"),
    # The global layer alone has a stretched rotary embedding.
    "olmo3": (Olmo3ForCausalLM, Olmo3Config(**TINY, sliding_window=5, layer_types=["sliding_attention", "full_attention"],
                                            attention_bias=True, rope_parameters=OLMO3, pad_token_id=0, eos_token_id=2),
              "bfloat16", "10GB"),
    # The global layer has no rotary embedding.
    "exaone4": (Exaone4ForCausalLM, Exaone4Config(**TINY, sliding_window=5, sliding_window_pattern=2), "bfloat16", "10GB"),
    "ernie4_5": (Ernie4_5ForCausalLM, Ernie4_5Config(**TINY, head_dim=8, use_bias=True), "bfloat16", "10GB"),
}


def old_spelling(path):
    """The same config.json as transformers 4 writes it."""
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    path.write_text(json.dumps(config, indent=2) + "\n")


logits = {}
ids = torch.arange(24).reshape(2, 12) * 7 % 64
logits["input_ids"] = ids
for seed, (name, (model_class, config, dtype, shard)) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1.0 if parameter.dim() == 1 and parameter.numel() == config.hidden_size else 0.0))
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(HERE / name, max_shard_size=shard)
    if name in ("qwen2-bias-tied", "llama-sharded"):
        old_spelling(HERE / name / "config.json")
    # Read again: casting the model in place would round its rotary frequencies too.
    model = model_class.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits[name] = model.eval()(ids).logits.contiguous()
save_file(logits, HERE / "expected.safetensors")
