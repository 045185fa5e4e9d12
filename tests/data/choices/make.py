"""Makes tests/data/choices/choices.json: the log-likelihoods that lm-evaluation-harness gives to the options of
multiple-choice questions, by builtin:math in f32, with its chat template and without, at several lengths.

    python make.py          (lm_eval, transformers, torch)
"""

import json
import pathlib
import shutil
import tempfile

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
MODEL = HERE / "../../../prelude/builtin/math"

LONG = "Tom has 75 apples and gets 3 more. Add 53 to 43. What is 12 plus 7? "
QUESTIONS = [
    {"question": "What is 12 plus 7?", "choices": ["12 + 7 = 19", "12 + 7 = 18", "19", "nineteen"], "answer": 0},
    {"question": LONG * 4 + "What is 50 plus 40?", "choices": ["50 + 40 = 90", "90", "50 + 40 = 9"], "answer": "A"},
    {"question": "24 + 55 = ? ", "choices": {"text": ["24 + 55 = 79", "  79", "apples and more apples and then 79"], "label": ["1", "2", "3"]}, "answerKey": "1"},
    {"question": "Say it", "choices": ["a", LONG * 3, "ab"], "label": 2},
]


def main():
    made = []
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(MODEL, directory, dirs_exist_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        for length in [256, 64, 24]:
            lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=length, batch_size=1)
            for templated in [True, False]:
                for question in QUESTIONS:
                    texts = question["choices"]["text"] if isinstance(question["choices"], dict) else question["choices"]
                    if templated:
                        asked = [{"role": "user", "content": question["question"]}]
                        context = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
                    else:
                        context = question["question"] + "\n"
                    pairs = [(context, text) for text in texts]
                    counts = [len(lm._encode_pair(*pair)[1]) for pair in pairs]
                    if max(counts) > length:
                        # It refuses an option that is longer than the window: its last tokens, by hand.
                        found = [by_hand(model, lm, pair, length) for pair in pairs]
                    else:
                        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
                        found = [float(x) for x, _ in lm.loglikelihood(requests, disable_tqdm=True)]
                        for pair, x in zip(pairs, found):
                            assert abs(by_hand(model, lm, pair, length) - x) < 1e-3
                    made.append({
                        "max_length": length, "templated": templated, "row": question,
                        "tokens": [min(count, length) for count in counts], "log_likelihoods": found,
                    })
    (HERE / "choices.json").write_text(json.dumps(made, indent=0) + "\n")


def by_hand(model, lm, pair, length):
    context, option = lm._encode_pair(*pair)
    ids = torch.tensor([(context + option)[-(length + 1):]])
    count = min(len(option), length)
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits[0, -count:].log_softmax(-1)
    return float(logits.gather(1, ids[0, -count:, None]).sum())


main()
