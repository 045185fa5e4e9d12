#!/usr/bin/env bash
# A uniform merge of three bf16 checkpoints of 135 M weights beside mergekit: time, peak memory, and the
# largest difference between the two. Needs GNU time, and a Python with mergekit (which brings torch).
#   prelude/benches/mergekit.sh PYTHON_VENV [DIRECTORY]
set -euo pipefail
venv=$(realpath "$1")
work=${2:-$(mktemp -d)}
cd "$(dirname "$0")/../.."
cargo build --release
dam=$PWD/target/release/dam
"$venv/bin/python" prelude/benches/mergekit_models.py "$work"
cd "$work"
printf 'models:\n- model: m0\n- model: m1\n- model: m2\nmerge_method: linear\nparameters: {weight: 1.0}\ndtype: bfloat16\n' > linear.yml
for _ in 1 2 3; do
    /usr/bin/time -f "dam      %e s, %M KB" "$dam" -c "load m0 m1 m2; merge linear ours --force" > /dev/null
    rm -rf theirs
    /usr/bin/time -f "mergekit %e s, %M KB" "$venv/bin/mergekit-yaml" linear.yml theirs > /dev/null 2> times || true
    tail -1 times
done
"$venv/bin/python" - <<'P'
from safetensors.torch import load_file
a, b = load_file("ours/model.safetensors"), load_file("theirs/model.safetensors")
print("largest difference", max((a[k].float() - b[k].float()).abs().max().item() for k in b))
P
