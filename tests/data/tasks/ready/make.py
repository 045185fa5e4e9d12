"""Makes data.json: small data sets in the layouts of those on the Hugging Face hub, and expected.json: what
lm-evaluation-harness 0.4.13 gives for its own tasks on them, with builtin:math in f32 and more positions through transformers.

    python make.py          (lm_eval, transformers, torch)
"""

import json
import pathlib
import random
import shutil
import tempfile

import datasets
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
MODEL = HERE / "../../../../prelude/builtin/math"
TASKS = ["arc_challenge", "arc_easy", "gsm8k", "hellaswag", "ja_leaderboard_jcommonsenseqa", "mgsm_direct_ja",
         "mgsm_native_cot_ja", "mmlu_social_sciences", "truthfulqa_mc1", "truthfulqa_mc2", "winogrande"]
SUBJECTS = ["econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
            "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
            "public_relations", "security_studies", "sociology", "us_foreign_policy"]

# Positions of the model: as many again as answers have tokens, and examples need more.
LENGTH = 1024

draw = random.Random(7)


def sums(count):
    for _ in range(count):
        a, b = draw.randint(10, 60), draw.randint(1, 39)
        wrong = [a + b + d for d in draw.sample([-10, -1, 1, 2, 10, 20], 4)]
        yield a, b, a + b, wrong


def arc(count):
    for a, b, right, wrong in sums(count):
        texts = [f"{a} + {b} = {x}" for x in [right, *wrong[:3]]]
        draw.shuffle(texts)
        labels = draw.choice([list("ABCD"), list("1234")])
        answer = labels[texts.index(f"{a} + {b} = {right}")]
        yield {"id": f"{a}.{b}", "question": f"What is {a} plus {b}?", "choices": {"text": texts, "label": labels},
               "answerKey": answer}


def gsm(count):
    for a, b, right, _ in sums(count):
        yield {"question": f"What is {a} plus {b}?", "answer": f"{a} + {b} = <<{a}+{b}={right}>>{right}\n#### {right}"}


def hellaswag(count):
    for a, b, right, wrong in sums(count):
        endings = [f"{a} + {b} = {right}", *(f"{a} + {b} = {x} [substeps]  apples." for x in wrong[:3])]
        label = draw.randrange(4)
        endings[0], endings[label] = endings[label], endings[0]
        yield {"ind": a, "activity_label": "Adding", "ctx_a": f"[header] How to add [title] Take {a}.",
               "ctx_b": draw.choice(["then Tom adds", ""]), "endings": endings, "label": str(label)}


def jcommonsense(count):
    for a, b, right, wrong in sums(count):
        choices = [str(x) for x in [right, *wrong]]
        label = draw.randrange(5)
        choices[0], choices[label] = choices[label], choices[0]
        yield {"q_id": a, "question": f"{a}足す{b}は?", **{f"choice{i}": c for i, c in enumerate(choices)}, "label": label}


def mgsm(count, worked):
    for a, b, right, _ in sums(count):
        question = f"{a}足す{b}はいくつですか。"
        answer = f"ステップごとの答え：{a}+{b}={right}。答えは{right}です。" if worked else None
        yield {"question": f"問題：{question}" if worked else question, "answer": answer, "answer_number": right,
               "equation_solution": None}


def mmlu(count):
    for a, b, right, wrong in sums(count):
        choices = [str(x) for x in [right, *wrong[:3]]]
        draw.shuffle(choices)
        yield {"question": f" What is {a} plus {b}?\n", "subject": "sums", "choices": choices, "answer": choices.index(str(right))}


def truthful(count):
    for a, b, right, wrong in sums(count):
        mc2 = [f"{a} + {b} = {right}", str(right), *(f"{a} + {b} = {x}" for x in wrong)]
        order = draw.sample(range(len(mc2)), len(mc2))
        yield {"question": f"What is {a} plus {b}?",
               "mc1_targets": {"choices": [mc2[0], *mc2[2:5]], "labels": [1, 0, 0, 0]},
               "mc2_targets": {"choices": [mc2[i] for i in order], "labels": [int(i < 2) for i in order]}}


def winogrande(count):
    for a, b, right, wrong in sums(count):
        yield {"sentence": f"The sum of {a} and {b} is _ as everyone knows.", "option1": str(right), "option2": str(wrong[0]),
               "answer": draw.choice("12")}


def data():
    """Repository, configuration, split: rows."""
    sets = {
        ("allenai/ai2_arc", "ARC-Easy"): {"train": arc(3), "validation": arc(3), "test": arc(9)},
        ("allenai/ai2_arc", "ARC-Challenge"): {"train": arc(3), "validation": arc(3), "test": arc(8)},
        ("openai/gsm8k", "main"): {"train": gsm(12), "test": gsm(6)},
        ("Rowan/hellaswag", None): {"train": hellaswag(3), "validation": hellaswag(10)},
        ("Rakuten/JGLUE", "JCommonsenseQA"): {"train": jcommonsense(9), "validation": jcommonsense(6)},
        ("juletxara/mgsm", "ja"): {"train": mgsm(8, True), "test": mgsm(5, False)},
        ("truthfulqa/truthful_qa", "multiple_choice"): {"validation": truthful(7)},
        ("allenai/winogrande", "winogrande_xl"): {"train": winogrande(3), "validation": winogrande(12)},
    }
    for i, subject in enumerate(SUBJECTS):
        sets["cais/mmlu", subject] = {"test": mmlu(3 + i % 4), "validation": mmlu(2), "dev": mmlu(5)}
    return {key: {split: list(rows) for split, rows in splits.items()} for key, splits in sets.items()}


def main():
    torch.set_num_threads(1)
    sets = data()
    load = lambda path=None, name=None, **_: datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows) for split, rows in sets[path, name].items()})
    datasets.load_dataset = load
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(MODEL, directory, dirs_exist_ok=True)
        config = pathlib.Path(directory) / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": LENGTH}))
        weights = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        weights.generation_config.max_new_tokens = None
        lm = HFLM(pretrained=weights, tokenizer=AutoTokenizer.from_pretrained(directory), max_length=LENGTH, batch_size=1)
        found = simple_evaluate(lm, tasks=TASKS, task_manager=TaskManager(), log_samples=True)
    results = {name: {key: value for key, value in metrics.items() if "," in key}
               for name, metrics in found["results"].items()}
    samples = {name: [{"doc_id": s["doc_id"], "filter": s["filter"], "contexts": [a[0] for a in s["arguments"]][:1],
                       "resps": [r[0] for r in s["resps"]]} for s in all] for name, all in found["samples"].items()}
    keyed = [[repo, config, splits] for (repo, config), splits in sets.items()]
    (HERE / "data.json").write_text(json.dumps(keyed, ensure_ascii=False, indent=0) + "\n")
    made = {"results": results, "samples": samples, "groups": found["group_subtasks"]}
    (HERE / "expected.json").write_text(json.dumps(made, ensure_ascii=False, default=float, indent=0) + "\n")


main()
