"""One table of speed and memory beside other programs, measured in turns on this machine.

    python prelude/benches/peers.py DAM DIR [--rounds N] [--only PART,...]

DAM is the program (`cargo build --release`), DIR a directory for checkpoints of SmolLM2-135M's shape with random weights
(2 GB). Needs numpy. Parts and what they are measured beside, each found in this Python's environment or left out:

    step     three sources, 256 tokens each                    torch, transformers
    threads  the same, one thread and all
    merge    linear, TIES and DARE-TIES of three, disk to disk mergekit
    answer   100 tokens, greedily                              transformers; llama_cpp (its bf16)
    tasks    200 four-way questions, 50 generations            lm_eval

A figure is the median of all rounds with the least and the most. Memory is the process's largest resident set, which for
ours counts mapped weights too.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import random_model

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.dirname(sys.executable)
SHAPE = "135m"
TOKENS = 256
WORDS = random_model.SHAPES[SHAPE][5]


def run(command, cwd, **environment):
    """Output, seconds and largest resident set in GB of a command."""
    errors = tempfile.TemporaryFile("w+")
    start = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=errors, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **environment},
    )
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        errors.seek(0)
        sys.exit(f"{' '.join(command)} failed:\n{output}{errors.read()}")
    return output, time.perf_counter() - start, usage.ru_maxrss / 1e6


def version(package):
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Ours:
    """This program, run with verbs that are separated by semicolons."""

    def __init__(self, program, directory):
        self.program, self.directory = os.path.abspath(program), directory

    def verbs(self, text, **environment):
        """Replies and the largest resident set in GB."""
        output, _, memory = run([self.program, "--json", "-c", text], self.directory, **environment)
        replies = [json.loads(line) for line in output.splitlines()]
        for reply in replies:
            if "error" in reply:
                sys.exit(f"{text}: {reply['error']}")
        return replies, memory

    def steps(self, **environment):
        """Seconds of the first step, the median of the others, and memory."""
        verbs = "load m0 m1 m2; data m0=0.jsonl m1=1.jsonl m2=2.jsonl; wrap; " + "; ".join(["step"] * 5)
        replies, memory = self.verbs(verbs, **environment)
        seconds = [reply["seconds"] for reply in replies if reply["verb"] == "step"]
        return seconds[0], statistics.median(seconds[1:]), memory


def add(what, ours, other, theirs, unit):
    """Prints a row of ours beside another program's."""
    ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}" if theirs else ""
    beside = f"{other}: {spread(theirs, unit)}" if theirs else other
    print("|", " | ".join([what, spread(ours, unit), beside, ratio]), "|", flush=True)


def missing(package):
    print(f"{package} is not installed: not compared with it", flush=True)


def spread(values, unit):
    """The median, with the least and the most."""
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"


def steps(ours, rounds):
    torch = version("torch")
    kinds = ["float32", "bfloat16"] if torch and version("transformers") else []
    first, kept, memory = [], [], []
    theirs = {kind: ([], []) for kind in kinds}
    for _ in range(rounds):
        for all, value in zip((first, kept, memory), ours.steps()):
            all.append(value)
        for kind in kinds:
            script = [sys.executable, f"{HERE}/dam_step_torch.py", kind, str(TOKENS), "4", "m0", "m1", "m2"]
            output, _, used = run(script, ours.directory)
            theirs[kind][0].append(statistics.median(json.loads(output)[1:]))
            theirs[kind][1].append(used)
    if not kinds:
        missing("torch")
    for kind in kinds or [None]:
        name = f"PyTorch {torch}, {kind}" if kind else ""
        seconds, used = theirs[kind] if kind else ([], [])
        add("DAM step, teachers' outputs kept", kept, name, seconds, "s")
        add("DAM step of the first epoch", first, name, seconds, "s")
        add("memory of DAM steps", memory, name, used, "GB")


def threads(ours, rounds):
    one, all = [], []
    for _ in range(rounds):
        one.append(ours.steps(RAYON_NUM_THREADS="1")[1])
        all.append(ours.steps()[1])
    add(f"DAM step on {os.cpu_count()} threads", all, "one thread", one, "s")


def merges(ours, rounds):
    found = version("mergekit")
    if not found:
        missing("mergekit")
    at = ours.directory
    base = f"base_model: {at}/m3\n"
    recipes = {
        "linear": ("merge linear weight=1", "merge_method: linear\nparameters: {weight: 1.0}\n"),
        "TIES": ("merge ties weight=1 density=0.5", base + "merge_method: ties\nparameters: {weight: 1.0, density: 0.5}\n"),
        "DARE-TIES": ("merge dare_ties weight=1 density=0.5",
                      base + "merge_method: dare_ties\nparameters: {weight: 1.0, density: 0.5}\n"),
    }
    models = "".join(f"- model: {at}/m{i}\n" for i in range(3))
    for name, (verb, recipe) in recipes.items():
        with open(f"{ours.directory}/{name}.yml", "w") as file:
            file.write(f"models:\n{models}{recipe}dtype: bfloat16\n")
        results = [[], [], [], []]
        for _ in range(rounds):
            sources = "load m0 m1 m2" if name == "linear" else "load base=m3 m0 m1 m2"
            start = time.perf_counter()
            _, memory = ours.verbs(f"{sources}; {verb} ours --force")
            results[0].append(time.perf_counter() - start)
            results[1].append(memory)
            if found:
                shutil.rmtree(f"{ours.directory}/theirs", ignore_errors=True)
                _, seconds, memory = run([f"{BIN}/mergekit-yaml", "--no-write-model-card", f"{name}.yml", "theirs"], ours.directory)
                results[2].append(seconds)
                results[3].append(memory)
        add(f"{name} merge of three, from disk to disk", results[0], f"mergekit {found}", results[2], "s")
        add(f"memory of the {name} merge", results[1], f"mergekit {found}", results[3], "GB")


def answers(ours, rounds):
    prompt = " ".join(f"w{i}" for i in range(1000, 1064))
    script = f"""
import json, sys, time, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("m0", dtype=torch.bfloat16).eval()
ids = torch.arange(1000, 1064)[None]
with torch.no_grad():
    model.generate(ids, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=100, min_new_tokens=100, do_sample=False)
print(json.dumps(time.perf_counter() - start))
"""
    llama = f"""
import json, time
from llama_cpp import Llama
model = Llama("m0.gguf", n_ctx=512, n_threads={os.cpu_count()}, verbose=False)
ids = list(range(1000, 1064))
start = time.perf_counter()
for count, _ in enumerate(model.generate(ids, temp=0.0, top_k=1), 1):
    if count == 100: break
print(json.dumps(time.perf_counter() - start))
"""
    peers = {"transformers": script, "llama_cpp_python": llama}
    found = {name: version(name) for name in peers}
    if found["llama_cpp_python"]:
        # GGUF has no tokens that are whole words.
        for name in ["m0", "m1"]:
            shutil.copytree(f"{ours.directory}/{name}", f"{ours.directory}/bpe-{name}", dirs_exist_ok=True)
            write_pair_tokenizer(f"{ours.directory}/bpe-{name}")
        ours.verbs("load bpe-m0 bpe-m1; merge linear m0.gguf dtype=bf16 --force")
    own, theirs = [], {name: [] for name in peers}
    for _ in range(rounds):
        replies, _ = ours.verbs(f'load m0 m1; wrap; generate "{prompt}" tokens=100')
        own.append(replies[-1]["seconds"])
        for name, text in peers.items():
            if found[name]:
                output, _, _ = run([sys.executable, "-c", text], ours.directory)
                theirs[name].append(json.loads(output.splitlines()[-1]))
    for name in peers:
        if not found[name]:
            missing(name)
        else:
            add("100 tokens of a merge, merging included", own, f"{name} {found[name]}, of one model", theirs[name], "s")


def write_tasks(directory):
    """Questions in the shapes of HellaSwag and GSM8K, of random words."""
    draw = random.Random(0)
    words = lambda least, most: " ".join(f"w{draw.randrange(10, WORDS)}" for _ in range(draw.randint(least, most)))
    with open(f"{directory}/choices.jsonl", "w") as file:
        for _ in range(200):
            row = {"context": words(40, 90), "endings": [words(10, 35) for _ in range(4)], "label": draw.randrange(4)}
            file.write(json.dumps(row) + "\n")
    with open(f"{directory}/generations.jsonl", "w") as file:
        for _ in range(50):
            file.write(json.dumps({"question": words(200, 400), "answer": words(1, 1)}) + "\n")
    common = "dataset_path: json\ntest_split: test\n"
    for name, rest in {
        "choices": "output_type: multiple_choice\ndoc_to_text: '{{context}}'\ndoc_to_choice: '{{endings}}'\n"
                   "doc_to_target: label\nmetric_list:\n- {metric: acc}\n- {metric: acc_norm}\n",
        "generations": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
                       "generation_kwargs: {until: [], max_gen_toks: 64, do_sample: false}\n"
                       "metric_list:\n- {metric: exact_match}\n",
    }.items():
        files = f"dataset_kwargs: {{data_files: {{test: {directory}/{name}.jsonl}}}}\n"
        os.makedirs(f"{directory}/tasks", exist_ok=True)
        with open(f"{directory}/tasks/{name}.yaml", "w") as file:
            file.write(f"task: bench_{name}\n{common}{files}{rest}")


def tasks(ours, rounds):
    found = version("lm_eval")
    if not found:
        missing("lm_eval")
    write_tasks(ours.directory)
    for name, what in [("choices", "200 questions of four choices"), ("generations", "50 answers of 64 tokens")]:
        results = [[], [], [], []]
        for _ in range(rounds):
            replies, memory = ours.verbs(f"load m0 m1; merge linear; eval task:tasks/{name}.yaml")
            results[0].append(replies[-1]["seconds"])
            results[1].append(memory)
            if found:
                command = [f"{BIN}/lm_eval", "--model", "hf", "--model_args", "pretrained=m0,dtype=bfloat16", "--tasks",
                           f"bench_{name}", "--include_path", "tasks", "--device", "cpu", "--batch_size", "8",
                           "--output_path", "scores"]
                shutil.rmtree(f"{ours.directory}/scores", ignore_errors=True)
                _, _, memory = run(command, ours.directory)
                files = [f"{at}/{file}" for at, _, files in os.walk(f"{ours.directory}/scores") for file in files]
                with open(files[0]) as file:
                    results[2].append(float(json.load(file)["total_evaluation_time_seconds"]))
                results[3].append(memory)
        add(what, results[0], f"lm_eval {found}", results[2], "s")
        add(f"memory of {what}", results[1], f"lm_eval {found}", results[3], "GB")


def write_tokenizer(directory):
    """One token per word `w0`, `w1`, ..."""
    words = {f"w{i}": i for i in range(WORDS)}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
                 "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    with open(f"{directory}/tokenizer.json", "w") as file:
        json.dump(tokenizer, file)
    with open(f"{directory}/tokenizer_config.json", "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w1", "pad_token": "w2"}, file)


def write_pair_tokenizer(directory):
    """Bytes, and pairs of them, in the form of SmolLM2's tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
    pairs = [(a, b) for a in letters for b in letters][: WORDS - 257]
    words = ["<|end|>", *letters, *(a + b for a, b in pairs)]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
                 "added_tokens": [{"id": 0, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
                                   "rstrip": False, "normalized": False}],
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                     {"type": "Digits", "individual_digits": True},
                     {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
                 "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                 "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)},
                           "merges": [f"{a} {b}" for a, b in pairs]}}
    with open(f"{directory}/tokenizer.json", "w") as file:
        json.dump(tokenizer, file)
    with open(f"{directory}/tokenizer_config.json", "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}, file)


def processor():
    """The processor's name, where Linux says it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = re.findall(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
        return f"{len(names)} x {names[0]}"
    except (OSError, IndexError):
        return platform.processor()


PARTS = {"step": steps, "threads": threads, "merge": merges, "answer": answers, "tasks": tasks}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dam")
    parser.add_argument("dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    arguments = parser.parse_args()
    directory = os.path.abspath(arguments.dir)
    for i in range(4):
        if not os.path.exists(f"{directory}/m{i}/tokenizer.json"):
            random_model.main(f"{directory}/m{i}", SHAPE, i)
            write_tokenizer(f"{directory}/m{i}")
        ids = [random.Random(i).randrange(3, WORDS) for _ in range(TOKENS)]
        with open(f"{directory}/{i}.jsonl", "w") as file:
            file.write(json.dumps({"input_ids": ids}) + "\n")
    print(processor())
    print("| what | ours | other program | ratio |\n| --- | --- | --- | --- |", flush=True)
    ours = Ours(arguments.dam, directory)
    for part in arguments.only:
        PARTS[part](ours, arguments.rounds)


if __name__ == "__main__":
    main()
