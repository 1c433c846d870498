"""Whole frames, one after the other: codec, language model, sampling, alignment, in official shapes with random weights.

    python benchmarks/frame.py [--shape hibiki-1b|moshi-7b] [--bits 4] [--cache int8|float32] [--minutes 10] [--csv FILE]

`minutes` are minutes of audio: 750 frames each. The context fills up and wraps on the way (after 4 minutes at 3000 rows).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import shapes
from timing import machine

from clearline.backends import Wanted, open_backend
from clearline.config import PRESETS
from clearline.config.kyutai import official_mimi
from clearline.generate import Codec, Generator, LMPrograms
from clearline.lab.bench import read_bandwidth

SHAPES = {"hibiki-1b": shapes.hibiki_1b, "moshi-7b": shapes.moshi_7b}
FRAMES_A_MINUTE = 750


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="hibiki-1b")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--cache", choices=["int8", "float32"], default="int8")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="write every frame's milliseconds")
    args = parser.parse_args()
    cfg = SHAPES[args.shape]()
    cache = None if args.cache == "float32" else args.cache
    programs = LMPrograms(cfg, open_backend("onnx", Wanted(args.threads, cache=cache)), shapes.random_lm(cfg, args.bits))
    codec = Codec(official_mimi(), open_backend("onnx", Wanted(args.threads)), shapes.random_mimi())
    stream, generator = codec.stream(cfg.dep_q), Generator(programs, PRESETS["kyutai-pytorch"])
    rng = np.random.default_rng(0)

    def frame() -> tuple[float, float]:
        pcm = (rng.standard_normal(1920) * 0.05).astype(np.float32)
        start = time.perf_counter()
        codes = stream.encode(pcm)
        middle = time.perf_counter()
        said = generator.step(codes).codes
        after = time.perf_counter()
        if said is not None:
            stream.decode(said[1:])
        end = time.perf_counter()
        return (end - start) * 1e3, (after - middle) * 1e3

    for _ in range(5):
        frame()
    count = round(args.minutes * FRAMES_A_MINUTE)
    bandwidth = read_bandwidth(args.threads)
    print(f"{machine()}\nDRAM read {bandwidth:.1f} GB/s with {args.threads} threads; {args.shape} q{args.bits}, {args.cache} cache")
    print("\n| minute | median | of it the language model | 99 % | worst |\n|---|---|---|---|---|")
    times: list[tuple[float, float]] = []
    while len(times) < count:
        some = [frame() for _ in range(min(FRAMES_A_MINUTE, count - len(times)))]
        times += some
        whole, model = np.array(some).T
        print(
            f"| {len(times) / FRAMES_A_MINUTE:g} | {np.median(whole):.1f} ms | {np.median(model):.1f} ms "
            f"| {np.percentile(whole, 99):.1f} ms | {whole.max():.1f} ms |",
            flush=True,
        )
    whole = np.array(times)[:, 0]
    print(
        f"\nall {count} frames: median {np.median(whole):.1f} ms, 99.9th percentile {np.percentile(whole, 99.9):.1f} ms, "
        f"worst {whole.max():.1f} ms, {int((whole > 80).sum())} over 80 ms"
    )
    if args.csv:
        np.savetxt(args.csv, np.array(times), "%.3f", ",", header="frame_ms,language_model_ms", comments="")


if __name__ == "__main__":
    main()
