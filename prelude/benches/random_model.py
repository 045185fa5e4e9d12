"""A checkpoint of a known model's shape with random weights in bf16, for `scale.py` and `peers.py`: needs only numpy.

    python random_model.py DIR SHAPE SEED

SHAPE is one of the keys of SHAPES. The weights of all tensors are stretches of one pool of normal numbers, which
SEED decides: drawing seven thousand million of them would take longer than everything that is measured with them.
A pool is larger than any page cache of the processor, and the files differ from seed to seed.
"""

import json
import os
import sys

import numpy as np

# hidden, intermediate, layers, heads, key-value heads, vocabulary
SHAPES = {
    "7b": (4096, 14336, 32, 32, 8, 32000),
    # The first 8 of the 32 layers of 7b: a quarter of its steps, on a quarter of the disk.
    "7b-8": (4096, 14336, 8, 32, 8, 32000),
    "1b": (2048, 8192, 16, 32, 8, 32000),
    "135m": (576, 1536, 30, 9, 3, 49152),
}
# Shapes whose output layer is the embedding.
TIED = {"135m"}
POOL = 1 << 26


def tensors(shape, tied=False):
    """Names and shapes, in the order of computation."""
    hidden, inner, layers, heads, pairs, vocabulary = shape
    head = hidden // heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attn.q_proj.weight", (heads * head, hidden)
        yield layer + "self_attn.k_proj.weight", (pairs * head, hidden)
        yield layer + "self_attn.v_proj.weight", (pairs * head, hidden)
        yield layer + "self_attn.o_proj.weight", (hidden, heads * head)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.gate_proj.weight", (inner, hidden)
        yield layer + "mlp.up_proj.weight", (inner, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocabulary, hidden)


def bf16(values):
    """The upper half of each f32."""
    return (values.view(np.uint32) >> 16).astype("<u2")


def main(directory, name, seed):
    shape = SHAPES[name]
    hidden, inner, layers, heads, pairs, vocabulary = shape
    os.makedirs(directory, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": name in TIED,
        "torch_dtype": "bfloat16",
    }
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)
    random = np.random.default_rng(seed)
    pool = bf16(random.standard_normal(POOL, dtype=np.float32) * np.float32(0.02))
    ones = bf16(np.ones(hidden, dtype=np.float32)).tobytes()
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor, dims in tensors(shape, name in TIED):
        start, end = end, end + 2 * int(np.prod(dims))
        header[tensor] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{directory}/model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, dims in tensors(shape, name in TIED):
            left = int(np.prod(dims))
            if len(dims) == 1:
                file.write(ones)
                continue
            while left > 0:
                start = int(random.integers(0, POOL - 1))
                piece = pool[start : start + min(left, POOL - start)]
                file.write(piece.data)
                left -= len(piece)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
