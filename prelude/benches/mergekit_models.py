"""Three checkpoints of SmolLM2-135M's shape with random weights in bf16, for `mergekit.sh`: DIR/m0, DIR/m1, DIR/m2."""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)
for seed in range(3):
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(f"{sys.argv[1]}/m{seed}")
