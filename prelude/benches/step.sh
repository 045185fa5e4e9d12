#!/usr/bin/env bash
# A DAM step of three bf16 checkpoints of 135 M weights, 256 tokens each: seconds a step, and peak memory; with a
# PyTorch script that is called as `SCRIPT float32 256 STEPS FLY MODEL_DIR...`, beside that, twice in turns.
# Needs GNU time, and a Python with torch and transformers.
#   prelude/benches/step.sh PYTHON_VENV [SCRIPT]
set -euo pipefail
venv=$(realpath "$1")
script=${2:+$(realpath "$2")}
cd "$(dirname "$0")/../.."
cargo build --release
dam=$PWD/target/release/dam
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/python" prelude/benches/mergekit_models.py "$work"
cd "$work"
"$venv/bin/python" - <<'P'
import json, random
for model in range(3):
    ids = [random.Random(model).randrange(3, 49152) for _ in range(256)]
    open(f"{model}.jsonl", "w").write(json.dumps({"input_ids": ids}))
P
verbs="load m0 m1 m2; data m0=0.jsonl m1=1.jsonl m2=2.jsonl; wrap; step; step; step; step; step; step"
for _ in 1 2; do
    /usr/bin/time -f "dam      %M KB at most" "$dam" --json -c "$verbs" | "$venv/bin/python" -c '
import json, statistics, sys
steps = [reply["seconds"] for reply in map(json.loads, sys.stdin) if reply["verb"] == "step"]
print(f"dam      median {statistics.median(steps[1:]):.2f} s a step; the first, in which teachers are met, {steps[0]:.2f} s")'
    if [ -n "$script" ]; then "$venv/bin/python" "$script" float32 256 5 FLY m0 m1 m2 2> /dev/null; fi
done
