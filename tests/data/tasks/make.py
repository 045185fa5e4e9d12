"""Makes the data of this folder, and expected.json: what lm-evaluation-harness 0.4.13 gives for every task (*.yaml)
with builtin:math in f32 through transformers, question by question; expected_chat.json: the same with
--apply_chat_template, for the model's template and for one that refuses system messages and trims.

    python make.py          (lm_eval, transformers, torch)
"""

import csv
import json
import os
import pathlib
import random
import shutil
import tempfile

import pyarrow
import pyarrow.parquet
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
MODEL = HERE / "../../../prelude/builtin/math"

# Model lengths other than the model's own 256 positions.
LENGTHS = {"rolling": [256, 48], "choices_fewshot": [256, 96], "gsm_fewshot": [256, 128]}

# With a description, examples, the beginning of an answer, several contexts, and each way to answer.
CHATS = ["choices", "choices_fewshot", "generate", "gsm_fewshot", "inputs", "mutual", "rolling", "words"]
STRICT = """{% for message in messages %}
{% if message.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}
[{{ message.role }}] {{ message.content | trim }}
{% endfor %}
{% if add_generation_prompt %}[assistant] {% endif %}"""


def rows(seed, count):
    """Questions on sums with four choices."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        a, b = draw.randint(10, 60), draw.randint(1, 39)
        answers = [a + b, a + b + draw.choice([-1, 1, 10]), a - b if a > b else a + b + 2, a + b + 20]
        order = list(range(4))
        draw.shuffle(order)
        label = order.index(0)
        choices = [f"{a} + {b} = {answers[i]}" for i in order]
        made.append({
            "question": f"What is {a} plus {b}?" if draw.random() < 0.7 else f"Add {b} to {a}. ",
            "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[label],
            "gold": label,
            "result": answers[0],
            "solution": f"{a} + {b} = {answers[0]}\n#### {answers[0]}",
            "aliases": [str(answers[0]), f"{a} + {b} = {answers[0]}."],
            "weight": None if draw.random() < 0.3 else draw.randint(1, 9) / 4,
        })
    return made


def data():
    lines = lambda items: "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (HERE / "train.jsonl").write_text(lines(rows(1, 30)))
    (HERE / "test.jsonl").write_text(lines(rows(2, 24)))
    # One JSON list, with a duplicate: it may be drawn as an example for itself.
    same = rows(3, 7)
    (HERE / "same.json").write_text(json.dumps(same + same[:1], indent=1))
    with open(HERE / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "a", "b", "c", "number", "share", "sure", "answer"])
        for i, row in enumerate(rows(4, 16)):
            texts = row["choices"]["text"]
            writer.writerow([row["question"], *texts[:3], i, i / 3 if i % 4 else "", i % 3 == 0, min(row["gold"], 2)])
    words = [
        {"context": "<|user|>What is 12 plus 7?<|end|><|assistant|>12 + 7 =", "word": " 19"},
        {"context": "<|user|>What is 12 plus 7?<|end|><|assistant|>12 + 7 = ", "word": "18"},
        {"context": "What is 5", "word": "0 plus 40?"},
        {"context": "", "word": "What is"},
        {"context": "Add 53 to ", "word": "43. 数"},
        {"context": "Tom has 75 apples and gets 3 more. " * 12, "word": "How many?"},
    ]
    (HERE / "words.jsonl").write_text(lines(words))
    draw = random.Random(5)
    pages = []
    for length in [3, 40, 1, 120, 17]:
        texts = [draw.choice(["What is", "apples", "12 + 7", "= 19", "\n\n", "  ", "数", "Tom has", "SELECT name"]) for _ in range(length)]
        pages.append(" ".join(texts))
    pyarrow.parquet.write_table(pyarrow.table({"page": pages, "id": list(range(5))}), HERE / "pages.parquet")


def model(directory):
    shutil.copytree(MODEL, directory, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    # It would replace the task's max_gen_toks.
    loaded.generation_config.max_new_tokens = None
    return loaded, tokenizer


def run(lm, manager, name, chat=False):
    found = simple_evaluate(lm, tasks=[name], task_manager=manager, log_samples=True, apply_chat_template=chat,
                            fewshot_as_multiturn=chat)
    samples = []
    for sample in found["samples"][name]:
        metrics = {metric: sample[metric] for metric in sample["metrics"]}
        arguments = sample["arguments"]
        contexts = [arg[0] for arg in arguments]
        samples.append({
            "doc_id": sample["doc_id"],
            "filter": sample["filter"],
            # One if all are the same.
            "contexts": contexts[:1] if len(set(contexts)) == 1 else contexts,
            "continuations": [arg[1] for arg in arguments if len(arg) > 1 and isinstance(arg[1], str)],
            "resps": [resp[0] for resp in sample["resps"]],
            "filtered": sample["filtered_resps"],
            "metrics": metrics,
        })
    results = {key: value for key, value in found["results"][name].items() if "," in key}
    return {"task": name, "max_length": lm.max_length, "results": results, "samples": samples}


def main():
    torch.set_num_threads(1)
    data()
    os.chdir(HERE)
    manager = TaskManager(include_path=str(HERE), include_defaults=False)
    made, chats = [], []
    with tempfile.TemporaryDirectory() as directory:
        weights, tokenizer = model(directory)
        for file in sorted(HERE.glob("*.yaml")):
            for length in LENGTHS.get(file.stem, [256]):
                lm = HFLM(pretrained=weights, tokenizer=tokenizer, max_length=length, batch_size=1)
                made.append(run(lm, manager, file.stem))
        own = tokenizer.chat_template
        for template in [own, STRICT]:
            tokenizer.chat_template = template
            for name in CHATS:
                lm = HFLM(pretrained=weights, tokenizer=tokenizer, max_length=256, batch_size=1)
                chats.append({**run(lm, manager, name, True), "template": template})
    for name, cases in [("expected", made), ("expected_chat", chats)]:
        text = json.dumps(cases, ensure_ascii=False, default=float, indent=0)
        (HERE / f"{name}.json").write_text(text + "\n")


main()
