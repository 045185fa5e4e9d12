"""A step of DAM in plain PyTorch, for `peers.py`: the KL divergence between the merge and each source on that source's
tokens, the cosine term, backward pass, AdamW. One coefficient per source and column of every weight.

    python dam_step_torch.py DTYPE TOKENS STEPS DIR...

Prints the seconds of each step as JSON. Teachers run in every step, as in the published code.
"""

import itertools
import json
import sys
import time

import torch
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, kl_div, log_softmax
from transformers import AutoModelForCausalLM

TEMPERATURE = 2.0
COSINE = 0.01


def main(dtype, tokens, steps, *directories):
    dtype, tokens = getattr(torch, dtype), int(tokens)
    models = [AutoModelForCausalLM.from_pretrained(d, dtype=dtype).eval() for d in directories]
    host, sources = models[0], [dict(m.named_parameters()) for m in models]
    for weights in sources:
        for weight in weights.values():
            weight.requires_grad_(False)
    count = len(sources)
    start = {name: torch.full((count, w.shape[-1]), 1 / count) for name, w in sources[0].items()}
    coefficients = {name: torch.nn.Parameter(c) for name, c in start.items()}
    optimiser = torch.optim.AdamW(coefficients.values(), lr=1e-3, weight_decay=0.0)
    torch.manual_seed(0)
    batches = [torch.randint(3, host.config.vocab_size, (1, tokens)) for _ in sources]

    def merged():
        of = lambda name, c: sum(c[i].to(dtype) * sources[i][name] for i in range(count))
        return {name: of(name, c) for name, c in coefficients.items()}

    def logits(weights, ids):
        return functional_call(host, weights, (ids,), {"use_cache": False}).logits.float() / TEMPERATURE

    seconds = []
    for _ in range(int(steps)):
        began = time.perf_counter()
        optimiser.zero_grad()
        for weights, ids in zip(sources, batches):
            with torch.no_grad():
                teacher = log_softmax(logits(weights, ids), -1)
            student = log_softmax(logits(merged(), ids), -1)
            loss = kl_div(student, teacher, reduction="sum", log_target=True) * TEMPERATURE**2 / tokens
            loss.backward()
        pairs = list(itertools.combinations(range(count), 2))
        cosine = sum(sum(cosine_similarity(c[a], c[b], dim=0) for a, b in pairs) / len(pairs) for c in coefficients.values())
        (COSINE * cosine).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
