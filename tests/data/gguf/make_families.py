"""Writes olmo2.gguf and granite.gguf of the models of ../families, as llama.cpp names and turns them.

    pip install gguf torch safetensors && python make_families.py

Their logits are those of ../families/expected.safetensors. Written with gguf 0.19.
"""

import json
from pathlib import Path

import gguf
import numpy
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
}
NORMS = {"olmo2": {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"},
         "granite": {"post_attention_layernorm": "ffn_norm"}}
OTHERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def neighbours(weight, heads):
    """Rows of halves of a head, one of each in turn, as llama.cpp's rotation of llama has them."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


for name, parts in NORMS.items():
    place = HERE.parent / "families" / name
    config = json.loads((place / "config.json").read_text())
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if name == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    for tensor, weight in load_file(place / "model.safetensors").items():
        weight = weight.to(torch.float32).numpy()
        stem, kind = tensor.rsplit(".", 1)
        if name == "granite" and stem.endswith(("q_proj", "k_proj")):
            weight = neighbours(weight, config["num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"])
        if stem.startswith("model.layers."):
            layer, part = stem.removeprefix("model.layers.").split(".", 1)
            new = f"blk.{layer}.{(PARTS | parts)[part]}"
        else:
            new = OTHERS[stem]
        writer.add_tensor(f"{new}.{kind}", weight.astype(numpy.float16) if weight.ndim > 1 else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
