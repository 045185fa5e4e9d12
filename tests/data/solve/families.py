"""Makes `families.safetensors` beside this file: column coefficients of two sources of every family, with states from
transformers and systems solved in float64.

    pip install numpy safetensors torch transformers && python families.py

The sources differ from the model in `../families/NAME` by noise that both sides can compute (`noised`). A layer's modules
are solved in the order in which transformers calls them, each with the inputs that hooks see: of the merge as solved so
far, and of the source itself. Written with transformers 5.24 and torch 2.15.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import make

HERE = Path(__file__).parent
FAMILIES = HERE.parent / "families"
NAMES = [
    "mistral-window", "qwen2-bias-tied", "llama-biases", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "smollm3",
    "smollm3-window", "olmo2", "olmo3", "granite", "glm", "glm4", "exaone4", "ernie4_5",
]
# The module whose output joins the residual stream, and one whose input is the stream, for both halves of a layer.
LAST = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "exaone4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
}
STREAM = {
    "gemma2": "pre_feedforward_layernorm", "gemma3_text": "pre_feedforward_layernorm",
    "olmo2": "mlp", "olmo3": "mlp", "exaone4": "mlp",
}
STORED = {name: {k: w.float().numpy() for k, w in load_file(FAMILIES / name / "model.safetensors").items()} for name in NAMES}
# transformers computes norms, softmax and angles in float32 whatever the model's dtype is.
torch.float32 = torch.float64
torch.Tensor.float = torch.Tensor.double


def noised(name, w, source):
    """A source's weight: noise of up to 0.6 times the weight's root mean square."""
    size = max(float(np.sqrt((w.astype(np.float64) ** 2).mean())), 0.01)
    i = np.arange(w.size, dtype=np.int64)
    noise = (i * i * 31 + i * 37 + len(name) * 13 + source * 71) % 101 / 50.0 - 1.0
    return (w.astype(np.float64) + 0.6 * size * noise.reshape(w.shape)).astype(np.float32)


def arbitrary(vocabulary, seed):
    """Six examples of twelve tokens."""
    start = [5 * i + seed for i in range(6)]
    return [[(s + 7 * i + seed * (i * i + 1)) % vocabulary for i in range(12)] for s in start]


class Model:
    def __init__(self, config, weights):
        self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager").eval().double()
        # Angles are computed anew, in float64.
        for module in self.model.modules():
            if hasattr(module, "inv_freq") and module.inv_freq is not None:
                module.inv_freq = module.inv_freq.double()
        self.modules = dict(self.model.named_modules())
        self.weights = {k: v.astype(np.float64) for k, v in weights.items()}
        for name in self.weights:
            self.put(name)

    def put(self, name):
        parameter = self.model.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(self.weights[name]).reshape(parameter.shape))

    def inputs(self, names, ids):
        """What the modules receive, each as rows; and the order of their calls."""
        seen = {}

        def hook(name):
            def keep(_, args, kwargs):
                x = args[0] if args else kwargs["hidden_states"]
                seen[name] = x.detach().numpy().reshape(-1, x.shape[-1])
            return self.modules[name].register_forward_pre_hook(keep, with_kwargs=True)

        handles = [hook(name) for name in names]
        with torch.no_grad():
            self.model(torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return seen


def solve(name):
    config = AutoConfig.from_pretrained(FAMILIES / name)
    original = STORED[name]
    sources = [Model(config, {k: noised(k, w, i) for k, w in original.items()}) for i in range(2)]
    data = [arbitrary(config.vocab_size, i + 1) for i in range(2)]
    run = make.Sweep([m for m in sources], data)
    merged = Model(config, run.merged)
    run.merged = merged.weights
    run.embedding()
    merged.put("model.embed_tokens.weight")
    kind, offset = config.model_type, float(config.model_type.startswith("gemma"))
    last, stream = LAST.get(kind, ("self_attn.o_proj", "mlp.down_proj")), STREAM.get(kind, "post_attention_layernorm")
    scale = getattr(config, "residual_multiplier", 1.0)
    make.normalised = lambda _, x: x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps)
    streams = run.streams()
    owners = sorted({k.rsplit(".", 1)[0] for k in original if "embed_tokens" not in k})
    order = [k for k in merged.inputs(owners, data[0][0]) if k in owners]
    for owner in order:
        half = next((h for h in range(2) if owner.endswith(last[h]) and ".layers." in owner), None)
        layer = ".".join(owner.split(".")[:3])
        streams_at = None if half is None else (layer if half == 0 else f"{layer}.{stream}")
        names = [owner] + ([streams_at] if streams_at else [])
        here = [merged.inputs(names, ids) for _, ids, _ in streams]
        own = [sources[i].inputs(names, ids) for i, ids, _ in streams]
        x, x_own = [s[owner] for s in here], [s[owner] for s in own]
        residual = streams_at and [(b[streams_at] - a[streams_at]) / scale for a, b in zip(here, own)]
        if original[owner + ".weight"].ndim == 2:
            run.linear([owner], x, x_own, residual)
        else:
            width = original[owner + ".weight"].shape[0]
            rows = lambda all: [z.reshape(-1, width) for z in all]
            norm(run, owner + ".weight", rows(x), rows(x_own), offset, residual)
        for end in (".weight", ".bias"):
            if owner + end in original:
                merged.put(owner + end)
    return run.scales


def norm(run, name, merged, own, offset, residual):
    weights = [m.weights[name][None] for m in run.models]
    mean, gram, right = sum(weights) / run.n, 0, 0
    for s, (i, _, weight) in enumerate(run.streams()):
        x, x_own = make.normalised(None, merged[s]), make.normalised(None, own[s])
        d = x * (weights[i] - mean) + (x_own - x) * (weights[i] + offset)
        if residual is not None:
            d = d + residual[s]
        gram, right = gram + weight * (x * x).sum(0), right + weight * (d * x).sum(0)
    [scales] = make.solve(run.scheme, None, [(name, weights)], lambda v: v * gram, [gram], right[None])
    run.put(name, scales)


def main():
    found = {}
    for name in NAMES:
        scales = solve(name)
        print(name, len(scales), max(abs(s).max() for s in scales.values()))
        found |= {f"{name}/{k}": s.reshape(len(s), -1).astype(np.float32) for k, s in scales.items()}
    save_file(found, HERE / "families.safetensors")


if __name__ == "__main__":
    main()
