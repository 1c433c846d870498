"""One streaming Mimi frame, encode and decode, in the released shape: Clearline beside PyTorch `moshi` and `rustymimi`.

    python benchmarks/mimi.py [--steps 100] [--threads 2] [--rounds 3]

Random weights. The programs take turns, `rounds` times, so that a disturbance hits all of them; medians over all steps.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import shapes
from peers.run import peer
from safetensors.numpy import save_file
from timing import Times, machine, timed

from clearline.backends import Wanted, open_backend
from clearline.config.kyutai import official_mimi
from clearline.generate import Codec
from clearline.lab.bench import read_bandwidth

OURS = {"clearline": None, "clearline --weights int16": "int16", "clearline --weights int8": "int8"}


def ours(threads: int, steps: int, kept: str | None) -> dict[str, Times]:
    codec = Codec(official_mimi(), open_backend("onnx", Wanted(threads, weights=kept)), shapes.random_mimi())
    stream = codec.stream(8)
    pcm = np.random.default_rng(0).standard_normal(1920).astype(np.float32) * 0.1
    codes = stream.encode(pcm)
    return {"encode": timed(lambda: stream.encode(pcm), steps), "decode": timed(lambda: stream.decode(codes), steps)}


def rusty_weights(path: Path) -> None:
    """The random codec in a file of Kyutai's layout: codebooks as sums with usage 1."""
    tensors: dict[str, np.ndarray] = {}
    for name, weight in shapes.random_mimi().items():
        if name.endswith("._codebook.embedding"):
            stem = name.removesuffix("embedding")
            tensors[f"{stem}embedding_sum"] = weight.data
            tensors[f"{stem}cluster_usage"] = np.ones(len(weight.data), np.float32)
            tensors[f"{stem}_initialized"] = np.ones(1, np.float32)
        else:
            # rustymimi knows only the older names of the attention's projections.
            older = name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.weight", "out_proj.weight")
            tensors[older] = weight.data
    save_file(tensors, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(machine())
    print(f"DRAM read {read_bandwidth(args.threads):.1f} GB/s with {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "mimi.safetensors"
        rusty_weights(weights)
        runs: dict[str, list[dict[str, Times] | str]] = {name: [] for name in (*OURS, "moshi (PyTorch)", "rustymimi")}
        for _ in range(args.rounds):
            for name, kept in OURS.items():
                runs[name].append(ours(args.threads, args.steps, kept))
            runs["moshi (PyTorch)"].append(peer("mimi_moshi.py", args.steps, args.threads))
            runs["rustymimi"].append(peer("mimi_rusty.py", args.steps, args.threads, weights))
    print(f"\n| one frame, {args.threads} threads | encode | decode | sum |\n|---|---|---|---|")
    sums: dict[str, float] = {}
    for name, results in runs.items():
        good = [result for result in results if not isinstance(result, str)]
        if not good:
            print(f"| {name} | {results[0]} | | |")
            continue
        encode, decode = (float(np.median([result[part].median for result in good])) for part in ("encode", "decode"))
        sums[name] = encode + decode
        print(f"| {name} | {encode:.1f} ms | {decode:.1f} ms | {encode + decode:.1f} ms |")
    mine = {name: sums.pop(name) for name in OURS}
    if sums:
        best = min(sums, key=lambda name: sums[name])
        times = ", ".join(f"{sums[best] / taken:.1f} x as long as {name}" for name, taken in mine.items())
        print(f"\nThe better peer, {best}, takes {times}.")


if __name__ == "__main__":
    main()
