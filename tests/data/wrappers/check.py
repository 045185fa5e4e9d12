"""Trains two steps of every multimodal model here and of the families beside, bakes, and has transformers load it.

    cargo build --release && python check.py

Prints transformers' loss on the data and ours, and the keys that transformers missed: none. With transformers 5.24 the
losses of all 19 are equal to 1e-7 of them.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

DATA = Path(__file__).parent.parent
DAM = DATA.parent.parent / "target/release/dam"
FAMILIES = ["olmo2", "granite", "glm4", "glm", "olmo3", "exaone4", "ernie4_5"]
WRAPPERS = sorted(path.parent.name for path in (DATA / "wrappers").glob("*/config.json"))
ROWS = [list(range(1, 13)), [9, 8, 7, 20, 33, 41]]


def check(place, model_class, directory):
    other, out, data = directory / "other", directory / "out", directory / "data.jsonl"
    other.mkdir()
    weights = {name: (weight.float() * 1.2).to(weight.dtype) for name, weight in load_file(place / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    (other / "config.json").write_text((place / "config.json").read_text())
    data.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ROWS))
    line = (f"load a={place} b={other}; set lr=1e-2 batch_size=2; data a={data} b={data}; wrap f=tanh; train 2; eval {data}; "
            f"bake {out} dtype=f32")
    replies = subprocess.run([DAM, "--json", "-c", line], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = next(reply for reply in map(json.loads, replies) if reply["verb"] == "eval")["scores"]["data"]["loss"]
    model, info = model_class.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    total = count = 0
    with torch.no_grad():
        for row in ROWS:
            ids = torch.tensor([row])
            logits = model.eval()(input_ids=ids).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(row) - 1
    keys = [sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    print(type(model).__name__, total / count, ours, *keys)


for names, kind, model_class in [(WRAPPERS, "wrappers", AutoModelForImageTextToText), (FAMILIES, "families", AutoModelForCausalLM)]:
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            check(DATA / kind / name, model_class, Path(directory))
