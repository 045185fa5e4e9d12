"""Makes expected.json beside this file with PyTorch and transformers, by hooks, in float64.

    pip install torch transformers && python make.py

The average of two built-in models answers a question of one of them. Residual streams, the logit lens, contributions
to the logit with the final norm frozen, and patches of streams, parts, tensors and columns. Written with torch 2.15 and
transformers 5.24.
"""

import contextlib
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
BUILTIN = HERE.parents[2] / "prelude" / "builtin"
PROMPT, ANSWER = "Subtract 55 from 94.", "94 - 55 = 39"
COLUMNS = 8


def model(name):
    return AutoModelForCausalLM.from_pretrained(BUILTIN / name, dtype=torch.float64, attn_implementation="eager").eval()


@contextlib.contextmanager
def hooked(*handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first(x):
    return x[0] if isinstance(x, tuple) else x


def seen(m, ids):
    """Logits, the stream at every boundary (before each layer, between its halves, after the last), and what each half
    adds."""
    streams, added = {}, {}

    def keep(where, key):
        return lambda module, args, *rest: where.__setitem__(key, args[0].detach())

    def keep_output(key):
        return lambda module, args, output: added.__setitem__(key, first(output).detach())

    handles = []
    for i, layer in enumerate(m.model.layers):
        handles += [
            layer.input_layernorm.register_forward_pre_hook(keep(streams, 2 * i)),
            layer.post_attention_layernorm.register_forward_pre_hook(keep(streams, 2 * i + 1)),
            layer.self_attn.register_forward_hook(keep_output((i, "attention"))),
            layer.mlp.register_forward_hook(keep_output((i, "mlp"))),
        ]
    handles.append(m.model.norm.register_forward_pre_hook(keep(streams, 2 * len(m.model.layers))))
    with hooked(*handles):
        logits = m(torch.tensor([ids])).logits[0]
    return logits, [streams[i][0] for i in range(len(streams))], added


def log_prob(m, ids, token, *handles):
    with hooked(*handles):
        return torch.log_softmax(m(torch.tensor([ids])).logits[0, -1], -1)[token].item()


def lens(m, x, token):
    return torch.log_softmax(m.lm_head(m.model.norm(x)), -1)[token].item()


def contributions(m, streams, token):
    """The final norm's scale is that of the whole stream; the mean over the vocabulary is taken off."""
    last = [x[-1] for x in streams]
    scale = torch.rsqrt(last[-1].pow(2).mean() + m.config.rms_norm_eps)
    output = m.lm_head.weight
    direction = (output[token] - output.mean(0)) * m.model.norm.weight * scale
    parts = [last[0]] + [b - a for a, b in zip(last, last[1:])]
    return [(direction @ part).item() for part in parts]


@contextlib.contextmanager
def weights_of(m, name, value):
    own = dict(m.named_parameters())[name]
    before = own.detach().clone()
    own.copy_(value)
    try:
        yield
    finally:
        own.copy_(before)


@torch.no_grad()
def main():
    tokenizer = Tokenizer.from_file(str(BUILTIN / "math" / "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    names = ["japanese", "math"]
    sources = [model(name) for name in names]
    merge = model("math")
    for name, own in merge.named_parameters():
        own.copy_(sum(dict(s.named_parameters())[name] for s in sources) / len(sources))
    math = sources[1]

    prompt, answer = encode(f"<|user|>{PROMPT}<|end|><|assistant|>"), encode(ANSWER)
    expected = merge(torch.tensor([prompt + answer])).logits[0].argmax(-1).tolist()
    at = next(k for k in range(len(answer)) if expected[len(prompt) + k - 1] != answer[k])
    ids, token = prompt + answer[:at], answer[at]

    logits, streams, _ = seen(merge, ids)
    of = [seen(source, ids) for source in sources]
    _, like, added = of[1]
    distance, cosine = {}, {}
    for name, (_, own, _) in zip(names, of):
        pairs = list(zip(streams[::2], own[::2]))
        distance[name] = [((x - y).norm(dim=-1) / y.norm(dim=-1)).tolist() for x, y in pairs]
        cosine[name] = [torch.cosine_similarity(x, y, dim=-1).tolist() for x, y in pairs]
    models = {"DAM": (merge, streams), **{name: (s, o[1]) for name, s, o in zip(names, sources, of)}}

    layers = merge.model.layers
    patched = {"stream": [], "part": {}, "tensor": {}}
    for place, module in enumerate([*layers, merge.model.norm]):
        swap = lambda module, args, x=like[2 * place]: (x[None], *args[1:])
        patched["stream"].append(log_prob(merge, ids, token, module.register_forward_pre_hook(swap)))
    patched["part"]["embedding"] = patched["stream"][0]
    for i, layer in enumerate(layers):
        for part, module in [("attention", layer.self_attn), ("mlp", layer.mlp)]:
            def swap(module, args, output, x=added[i, part]):
                return (x, *output[1:]) if isinstance(output, tuple) else x
            found = log_prob(merge, ids, token, module.register_forward_hook(swap))
            patched["part"][f"layer {i} {part}"] = found
    theirs = dict(math.named_parameters())
    for name, _ in list(merge.named_parameters()):
        with weights_of(merge, name, theirs[name]):
            patched["tensor"][name] = log_prob(merge, ids, token)

    # The columns of the projection that recovers most, by their share of its departure given the merge's input.
    name = max(patched["tensor"], key=patched["tensor"].get)
    own, inputs = dict(merge.named_parameters())[name], []
    module = merge.get_submodule(name.removesuffix(".weight"))
    log_prob(merge, ids, token, module.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0])))
    squares = (own - theirs[name]).pow(2).sum(0) * inputs[0].pow(2).mean(0)
    shares = squares / squares.sum()
    columns = shares.argsort(descending=True)[:COLUMNS]
    value = own.detach().clone()
    value[:, columns] = theirs[name][:, columns]
    with weights_of(merge, name, value):
        some_columns = log_prob(merge, ids, token)

    report = {
        "ids": ids, "token": token, "like": "math",
        "distance": distance, "cosine": cosine,
        "log_prob": {name: [lens(m, x[-1], token) for x in s[::2]] for name, (m, s) in models.items()},
        "contributions": {name: contributions(m, s, token) for name, (m, s) in models.items()},
        "loss": -torch.log_softmax(logits[-1], -1)[token].item(),
        "normaliser": torch.logsumexp(logits[-1] - logits[-1].mean(), -1).item(),
        "patched": patched,
        "columns": {"tensor": name, "shares": shares.tolist(), "log_prob": some_columns},
    }
    (HERE / "expected.json").write_text(json.dumps(report, indent=1) + "\n")


main()
