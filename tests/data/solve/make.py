"""Makes the models and the coefficients beside this file with numpy, in float64.

    pip install numpy safetensors && python make.py

Every solution is dense: the Jacobian of a tensor's scales by its parameters is written out, and the normal equations
are solved at once. Random weights, seeded; only the numbers are of interest. Written with numpy 2.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
RIDGE = 0.1


def silu(x):
    return x / (1 + np.exp(-x))


class Model:
    """A decoder of the Llama type."""

    def __init__(self, path):
        self.weights = {k: v.astype(np.float64) for k, v in load_file(path / "model.safetensors").items()}
        c = self.config = json.loads((path / "config.json").read_text())
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.layers, self.eps = c["num_hidden_layers"], c["rms_norm_eps"]
        self.theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]


def normalised(model, x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + model.eps)


def rotary(model, x):
    t, half = x.shape[0], model.dim // 2
    angles = np.arange(t)[:, None] * model.theta ** (-np.arange(half) / half)
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * c - b * s, b * c + a * s], -1)


def project(w, name, x):
    return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)


def attended(model, w, prefix, y):
    t = y.shape[0]
    q, k, v = (project(w, f"{prefix}.{p}_proj", y).reshape(t, -1, model.dim) for p in "qkv")
    q, k = rotary(model, q), rotary(model, k)
    k, v = (np.repeat(x, model.heads // model.kv, 1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(model.dim)
    scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v).reshape(t, -1)


def scale_map(scheme, model, name, n, rows, columns):
    """The scales of a tensor as `S p + s`: S is (n rows columns) x parameters, in the form the scheme returns."""
    layer, bias = ".layers." in name and "_proj" in name, name.endswith(".bias")
    form = (1, columns)
    if bias:
        form = (1, 1)
    elif scheme == "rows" and layer:
        form = (rows, 1)
    elif scheme == "tensor":
        form = (1, 1)
    elif scheme == "rows_columns" and layer:
        # Rows, then columns; each element is their sum.
        s = np.zeros((n, rows, columns, n, rows + columns))
        for i in range(n):
            for r in range(rows):
                for c in range(columns):
                    s[i, r, c, i, r] = s[i, r, c, i, rows + c] = 1
        return s.reshape(n * rows * columns, -1), (rows, columns)
    elif scheme == "heads" and layer and "self_attn" in name:
        last = "o_proj" in name
        form = (1, columns) if last else (rows, 1)
        size = columns if last else rows
        s = np.kron(np.eye(n), np.kron(np.eye(size // model.dim), np.ones((model.dim, 1))))
        return s, form
    return np.eye(n * form[0] * form[1]), form


def spread(n, form, rows, columns):
    """From scales in broadcast form to one per source and element."""
    s = np.arange(n * form[0] * form[1]).reshape(n, *form)
    return np.broadcast_to(s, (n, rows, columns)).reshape(-1)


def basis(weights):
    mean = sum(weights) / len(weights)
    return [mean] + [w - weights[0] for w in weights[1:]]


def ridge_matrix(weights, gram_times, diagonal, form, rows, columns):
    """For each cell: RIDGE times the mean over cells of the second derivatives, in terms of the sources."""
    n, v = len(weights), basis(weights)
    p = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            if (a == 0) == (b == 0):
                left = v[a] * diagonal if form[1] == columns else gram_times(v[a])
                p[a, b] = RIDGE * (left * v[b]).sum() / (form[0] * form[1])
    trace = np.trace(p) - p[0, 0]
    p[0, 0] = p[0, 0] if p[0, 0] > 0 else 1.0
    for a in range(1, n):
        p[a, a] += 1e-6 * trace / (n - 1) if trace > 0 else 1.0
    t = np.eye(n) - 1 / n
    t[0] = 1
    return t.T @ p @ t


def solve(scheme, model, parts, gram_times, diagonals, right):
    """Solves for the scales of `parts`, (name, weights of the sources), which lie side by side. Returns all scales."""
    n = len(parts[0][1])
    maps, jacobians, penalties, forms = [], [], [], []
    total = sum(w[0].shape[1] for _, w in parts)
    start = 0
    for (name, weights), diagonal in zip(parts, diagonals):
        rows, columns = weights[0].shape
        s, form = scale_map(scheme, model, name, n, rows, columns)
        place = spread(n, form, rows, columns)
        # The derivative of every element of the joined weight.
        j = np.zeros((rows, total, s.shape[1]))
        each = (np.array(weights).reshape(n, -1)[:, :, None] * s[place].reshape(n, rows * columns, -1)).sum(0)
        j[:, start:start + columns] = each.reshape(rows, columns, -1)
        inside = slice(start, start + columns)

        def times(v, inside=inside, rows=rows, columns=columns):
            wide = np.zeros((rows, total))
            wide[:, inside] = v
            return gram_times(wide)[:, inside]

        p = ridge_matrix(weights, times, diagonal, form, rows, columns)
        cells = s.reshape(n, form[0] * form[1], -1)
        penalties.append(np.einsum("acp,ab,bcq->pq", cells, p, cells))
        maps.append(s), jacobians.append(j), forms.append(form)
        start += columns
    j = np.concatenate(jacobians, -1)
    rows = j.shape[0]
    flat = j.reshape(rows * total, -1)
    across = np.stack([gram_times(j[..., q]) for q in range(j.shape[-1])], -1).reshape(rows * total, -1)
    h = flat.T @ across
    start = 0
    for p in penalties:
        h[start:start + len(p), start:start + len(p)] += p
        start += len(p)
    d = np.linalg.lstsq(h, flat.T @ right.reshape(-1), rcond=1e-12)[0]
    scales, start = [], 0
    for s, form in zip(maps, forms):
        e = s @ d[start:start + s.shape[1]]
        scales.append(e.reshape(n, *form) + 1 / n)
        start += s.shape[1]
    return scales


class Sweep:
    def __init__(self, models, data, scheme="columns", target="own", inputs="merged", residual=True, base=None):
        self.models, self.scheme, self.target, self.inputs = models, scheme, target, inputs
        self.residual, self.base, self.n = residual and (target, inputs) == ("own", "merged"), base, len(models)
        self.corrects = (target, inputs) == ("own", "merged")
        self.data = data
        self.counts = [sum(map(len, d)) for d in data]
        self.scales = {}
        self.merged = {k: sum(m.weights[k] for m in models) / self.n for k in models[0].weights}

    def streams(self):
        return [(i, ids, 1 / self.counts[i]) for i in range(self.n) for ids in self.data[i]]

    def put(self, name, scales):
        # Coefficients are stored in float32; later layers see them so.
        scales = self.scales[name] = scales.astype(np.float32).astype(np.float64)
        weights = np.stack([m.weights[name] for m in self.models])
        two = weights.reshape(self.n, weights.shape[1], -1) if name.endswith(".bias") else np.atleast_3d(weights)
        if weights.ndim == 2 and not name.endswith(".bias"):
            two = weights[:, None]
        self.merged[name] = (scales * two).sum(0).reshape(weights.shape[1:])

    def linear(self, names, merged, own, residual=None):
        """Solves projections for the inputs `merged` and `own`, one per stream."""
        has_bias = names[0] + ".bias" in self.merged
        one = lambda x: np.concatenate([x, np.ones((len(x), 1))], 1) if has_bias else x
        for name in names:
            all_names = [name + ".weight"] + ([name + ".bias"] if has_bias else [])
            parts = [(k, [m.weights[k].reshape(len(m.weights[k]), -1) for m in self.models]) for k in all_names]
            joined = [np.concatenate([w[i] for _, w in parts], 1) for i in range(self.n)]
            mean = sum(joined) / self.n
            gram, right = 0, 0
            for s, (i, _, weight) in enumerate(self.streams()):
                x = one(own[s] if self.inputs == "own" else merged[s])
                d = x @ (joined[i] - mean).T
                if self.corrects:
                    d = d + (one(own[s]) - x) @ joined[i].T
                if residual is not None and self.residual:
                    d = d + residual[s]
                gram, right = gram + weight * x.T @ x, right + weight * d.T @ x
            diagonal = np.diag(gram)
            split = [diagonal[:-1], diagonal[-1:]] if has_bias else [diagonal]
            solved = solve(self.scheme, self.models[0], parts, lambda v: v @ gram, split, right)
            for k, scales in zip(all_names, solved):
                self.put(k, scales)

    def norm(self, name, merged, own):
        weights = [m.weights[name + ".weight"][None] for m in self.models]
        mean = sum(weights) / self.n
        if all((w == weights[0]).all() for w in weights):
            return
        gram, right = 0, 0
        for s, (i, _, weight) in enumerate(self.streams()):
            z, z_own = normalised(self.models[0], merged[s]), normalised(self.models[0], own[s])
            x = z_own if self.inputs == "own" else z
            d = x * (weights[i] - mean) + ((z_own - x) * weights[i] if self.corrects else 0)
            gram, right = gram + weight * (x * x).sum(0), right + weight * (d * x).sum(0)
        [scales] = solve(self.scheme, self.models[0], [(name + ".weight", weights)], lambda v: v * gram, [gram], right[None])
        self.put(name + ".weight", scales)

    def embedding(self):
        name = "model.embed_tokens.weight"
        weights = [m.weights[name] for m in self.models]
        share = np.zeros((self.n, len(weights[0])))
        for i, ids, weight in self.streams():
            np.add.at(share[i], ids, weight)
        mean, gram = sum(weights) / self.n, share.sum(0)[:, None]
        right = sum(share[i][:, None] * (weights[i] - mean) for i in range(self.n))
        used = gram[:, 0] > 0
        part = (name, [w[used] for w in weights])
        [scales] = solve(self.scheme, self.models[0], [part], lambda v: v * gram[used], [gram[used]], right[used])
        self.put(name, scales)

    def run(self):
        self.embedding()
        streams, m = self.streams(), self.models[0]
        x = [self.merged["model.embed_tokens.weight"][ids] for _, ids, _ in streams]
        own = [self.models[i].weights["model.embed_tokens.weight"][ids] for i, ids, _ in streams]
        of = [self.models[i].weights for i, _, _ in streams]
        scaled = lambda name, w, x: normalised(m, x) * w[name + ".weight"]
        for layer in range(m.layers):
            p = f"model.layers.{layer}"
            for half in ("attention", "mlp"):
                norm = p + (".input_layernorm" if half == "attention" else ".post_attention_layernorm")
                self.norm(norm, x, own)
                y, y_own = ([scaled(norm, w, x) for w, x in zip(ws, xs)] for ws, xs in (([self.merged] * len(x), x), (of, own)))
                if half == "attention":
                    self.linear([f"{p}.self_attn.{k}_proj" for k in "qkv"], y, y_own)
                    inner = lambda w, y: attended(m, w, p + ".self_attn", y)
                    last = p + ".self_attn.o_proj"
                else:
                    self.linear([f"{p}.mlp.{k}_proj" for k in ("gate", "up")], y, y_own)
                    inner = lambda w, y: silu(project(w, p + ".mlp.gate_proj", y)) * project(w, p + ".mlp.up_proj", y)
                    last = p + ".mlp.down_proj"
                z, z_own = [inner(self.merged, y) for y in y], [inner(w, y) for w, y in zip(of, y_own)]
                self.linear([last], z, z_own, [a - b for a, b in zip(own, x)])
                x = [x + project(self.merged, last, z) for x, z in zip(x, z)]
                own = [x + project(w, last, z) for w, x, z in zip(of, own, z_own)]
        self.norm("model.norm", x, own)
        if "lm_head.weight" in self.merged:
            y = [scaled("model.norm", self.merged, x) for x in x]
            self.linear(["lm_head"], y, [scaled("model.norm", w, x) for w, x in zip(of, own)])
        return self.scales

    def tasks(self):
        for name in self.merged:
            if "_proj.weight" not in name:
                continue
            weights = [m.weights[name] for m in self.models]
            mean, gram, right = sum(weights) / self.n, 0, 0
            for w in weights:
                t = w - self.base.weights[name]
                g = t.T @ t / (t * t).sum()
                gram, right = gram + g, right + (w - mean) @ g
            [scales] = solve(self.scheme, self.models[0], [(name, weights)], lambda v: v @ gram, [np.diag(gram)], right)
            self.put(name, scales)
        return self.scales


def tied():
    """Three sources of a tied model with biases, and their data."""
    config = dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, vocab_size=40, max_position_embeddings=64, rms_norm_eps=1e-6,
        rope_theta=10000.0, tie_word_embeddings=True, hidden_act="silu", torch_dtype="float32",
    )
    random = np.random.default_rng(17)
    shapes = {"model.embed_tokens.weight": (40, 16), "model.norm.weight": (16,)}
    for layer in range(2):
        p = f"model.layers.{layer}."
        for k, rows in (("q", 16), ("k", 8), ("v", 8)):
            shapes[f"{p}self_attn.{k}_proj.weight"] = (rows, 16)
            shapes[f"{p}self_attn.{k}_proj.bias"] = (rows,)
        shapes[p + "self_attn.o_proj.weight"] = (16, 16)
        shapes |= {p + f"mlp.{k}_proj.weight": (24, 16) for k in ("gate", "up")}
        shapes[p + "mlp.down_proj.weight"] = (16, 24)
        shapes |= {p + k + ".weight": (16,) for k in ("input_layernorm", "post_attention_layernorm")}
    start = {k: random.normal(1.0 if "norm" in k else 0.0, 0.1 if "norm" in k else 0.3, s) for k, s in shapes.items()}
    for i in range(3):
        path = HERE / f"tied{i}"
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        weights = {k: (v + random.normal(0, 0.1, v.shape)).astype(np.float32) for k, v in start.items()}
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        lines = [json.dumps({"input_ids": random.integers(0, 40, length).tolist()}) for length in (14, 9, 11)]
        (HERE / f"tied{i}.jsonl").write_text("\n".join(lines) + "\n")


def examples(files):
    return [[np.array(json.loads(line)["input_ids"]) for line in f.read_text().splitlines()] for f in files]


def main():
    tied()
    base = Model(GOLDEN / "base")
    golden = [Model(GOLDEN / f"model{i}") for i in range(3)]
    data = examples([GOLDEN / f"data{i}.jsonl" for i in range(3)])
    small = [Model(HERE / f"tied{i}") for i in range(3)]
    small_data = examples([HERE / f"tied{i}.jsonl" for i in range(3)])
    all_scales = {"two": Sweep(golden[:2], data[:2]).run()}
    for scheme in ("columns", "rows", "tensor", "rows_columns", "heads"):
        all_scales[scheme] = Sweep(golden, data, scheme).run()
    all_scales["four"] = Sweep(golden + [base], data + [[]]).run()
    for scheme in ("columns", "rows", "rows_columns"):
        all_scales["tied_" + scheme] = Sweep(small, small_data, scheme).run()
    all_scales["regmean"] = Sweep(golden, data, inputs="own").run()
    all_scales["regmean_plus_plus"] = Sweep(golden, data, target="merged", residual=False).run()
    all_scales["wudi"] = Sweep(golden, data, base=base).tasks()
    # Of per-element scales, one row and one column tell all.
    first = lambda s: np.concatenate([s[:, :, 0], s[:, 0]], 1) if min(s.shape[1:]) > 1 else s.reshape(len(s), -1)
    save_file(
        {f"{run}/{k}": first(s).astype(np.float32) for run, scales in all_scales.items() for k, s in scales.items()},
        HERE / "expected.safetensors",
    )
    for run, scales in all_scales.items():
        print(run, len(scales), max(abs(s).max() for s in scales.values()))


if __name__ == "__main__":
    main()
