"""Training and a static merge of three large checkpoints with random weights: seconds, beside the limits of the
processor and of the disk, and peak memory without page cache. Linux only; needs numpy.

    python prelude/benches/scale.py DAM DIR [SHAPE [TOKENS [STEPS]]]

DAM is the program, DIR a directory for the checkpoints (3 x 14.5 GB for the shape 7b, made if they are missing), TOKENS
the tokens per source and step (256). The limits are measured here: products of matrices in f32 on all cores by numpy,
and reading a file from end to end that is not in the page cache.
"""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np

import random_model


def gflops():
    """10^9 operations a second of the best of a few products, f32, all cores."""
    n = 2048
    a, b = (np.random.default_rng(i).standard_normal((n, n), dtype=np.float32) for i in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def disk(path):
    """Bytes a second of reading `path`, up to 4 GB of it, from the disk."""
    total, block = min(os.path.getsize(path), 4 << 30), bytearray(8 << 20)
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start, left = time.perf_counter(), total
        while left > 0:
            left -= file.readinto(block)
        seconds = time.perf_counter() - start
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return total / seconds


class Watched:
    """A run of the program: its replies, and what its memory and the disk did."""

    def __init__(self, dam, commands, cwd):
        self.peak = self.read = self.written = self.cpu = 0
        self.replies = []
        self.process = subprocess.Popen(
            [dam, "--json", "-c", commands], cwd=cwd, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        thread = threading.Thread(target=self.sample, daemon=True)
        thread.start()
        for line in self.process.stdout:
            reply = json.loads(line)
            before = self.replies[-1]["total_read"] if self.replies else 0
            reply["total_read"], reply["read"] = self.read, self.read - before
            self.replies.append(reply)
            if "error" in reply:
                print(reply["error"], reply.get("hint", ""))
        self.process.wait()

    def sample(self):
        proc = f"/proc/{self.process.pid}"
        while self.process.poll() is None:
            try:
                status = dict(line.split(":", 1) for line in open(f"{proc}/status"))
                io = dict(line.split(":", 1) for line in open(f"{proc}/io"))
            except (OSError, ValueError):
                break
            self.peak = max(self.peak, int(status.get("RssAnon", "0").split()[0]) * 1024)
            self.read, self.written = int(io["read_bytes"]), int(io["write_bytes"])
            time.sleep(0.2)

    def of(self, verb):
        return [reply for reply in self.replies if reply.get("verb") == verb and "error" not in reply]


def main(dam, directory, shape="7b", tokens="256", steps="3"):
    dam, tokens, steps = os.path.abspath(dam), int(tokens), int(steps)
    os.makedirs(directory, exist_ok=True)
    for i in range(3):
        at = f"{directory}/m{i}"
        if not os.path.exists(f"{at}/model.safetensors"):
            random_model.main(at, shape, i)
        ids = np.random.default_rng(i).integers(3, 32000, (1, tokens)).tolist()
        with open(f"{directory}/{i}.jsonl", "w") as file:
            file.writelines(json.dumps({"input_ids": row}) + "\n" for row in ids)
    sizes = [os.path.getsize(f"{directory}/m{i}/model.safetensors") for i in range(3)]
    speed, flops = disk(f"{directory}/m1/model.safetensors"), gflops()
    print(f"disk {speed / 1e9:.2f} GB/s, processor {flops:.0f} GFLOP/s, three sources of {sizes[0] / 1e9:.1f} GB")
    weights = sum(int(np.prod(dims)) for name, dims in random_model.tensors(random_model.SHAPES[shape])
                  if len(dims) == 2 and "embed" not in name)
    one = 2 * 3 * tokens * weights / flops / 1e9
    print(f"arithmetic of a step: {3 * one:.0f} s, and {one:.0f} s for the teachers, and {one:.0f} s to recompute")
    for recompute in os.environ.get("RECOMPUTE", "auto,on").split(","):
        run = Watched(dam, f"load m0 m1 m2; data m0=0.jsonl m1=1.jsonl m2=2.jsonl; set recompute={recompute}; wrap; "
                      + "step; " * steps, directory)
        print(f"recompute={recompute}: peak {run.peak / 1e9:.2f} GB without page cache")
        for verb in ["load", "wrap", "step"]:
            for reply in run.of(verb):
                reading = reply["read"]
                print(f"  {verb} {reply['seconds']:.1f} s; read {reading / 1e9:.1f} GB, "
                      f"which the disk does in {reading / speed:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
