"""How a language-model step grows: with the context, the model, the codebooks, and the number of sessions. -> growth.svg

    python benchmarks/growth.py [--steps 20] [-o benchmarks/growth.svg]

Random q4 weights, int8 and float32 caches, 2 threads. Beside every time stands what reading the step's bytes once takes at
the bandwidth measured between the steps. Sessions of a batch take turns, each step reading all weights again. Needs matplotlib.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapes
from lm_step import ours, step_bytes
from timing import machine

from clearline.backends import Wanted, open_backend
from clearline.config import LMConfig
from clearline.generate import LMPrograms
from clearline.lab.bench import Bandwidth
from clearline.ops import Weight

READ = Bandwidth()  # measured between the steps
Point = tuple[float, float, float]  # what grows, milliseconds, the limit's milliseconds


def programs(cfg: LMConfig, weights: dict[str, Weight], cache: str, threads: int) -> LMPrograms:
    return LMPrograms(cfg, open_backend("onnx", Wanted(threads, cache=None if cache == "float32" else cache)), weights)


def point(x: float, made: LMPrograms, cfg: LMConfig, weights: dict[str, Weight], filled: int, cache: str, steps: int) -> Point:
    READ.rounds.clear()
    temporal, depth = ours(made, filled, steps, READ)
    bandwidth = float(np.median(READ.rounds))
    taken, limit = temporal.median + depth.median, step_bytes(cfg, weights, filled, cache) / 1e6 / bandwidth
    print(f"{x:>6g} {cache:<8} {taken:7.1f} ms, limit {limit:6.1f} ms at {bandwidth:.1f} GB/s", flush=True)
    return x, taken, limit


def smaller(layers: int) -> LMConfig:
    cfg = shapes.hibiki_1b()
    return replace(cfg, transformer=replace(cfg.transformer, num_layers=layers))


def codebooks(count: int) -> LMConfig:
    """The depformer's steps and the streams, from 2 to 16 codebooks each way."""
    cfg = shapes.hibiki_1b()
    assert cfg.depformer is not None
    steps = replace(cfg.depformer.transformer, ffn_hidden=(2816,) * count, steps=count, context=count)
    delays = (0, 0, *[2] * (count - 1), 0, *[2] * (count - 1))
    return replace(cfg, depformer=replace(cfg.depformer, transformer=steps), n_q=2 * count, dep_q=count, delays=delays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("growth.svg"))
    args = parser.parse_args()
    print(machine())
    panels: dict[str, dict[str, list[Point]]] = {}
    cfg = shapes.with_context(shapes.hibiki_1b(), 6000)
    weights = shapes.random_lm(cfg, 4)
    panels["context, rows (1B)"] = found = {}
    for cache in ("float32", "int8"):
        made = programs(cfg, weights, cache, args.threads)
        found[cache] = [point(n, made, cfg, weights, n, cache, args.steps) for n in (1, 500, 1000, 2000, 3000, 4500, 6000)]
        if cache == "int8":
            panels["sessions in turn (1B)"] = {cache: [batch(n, made, cfg, weights, args.steps) for n in (1, 2, 4, 8, 16)]}
    panels["temporal layers"] = {"int8": [other(n, smaller(n), args) for n in (4, 8, 16, 24)]}
    panels["codebooks"] = {"int8": [other(n, codebooks(n), args) for n in (2, 4, 8, 16)]}
    draw(panels, args.output)


def other(x: int, cfg: LMConfig, args: argparse.Namespace) -> Point:
    weights = shapes.random_lm(cfg, 4)
    return point(x, programs(cfg, weights, "int8", args.threads), cfg, weights, 500, "int8", args.steps)


def batch(count: int, made: LMPrograms, cfg: LMConfig, weights: dict[str, Weight], steps: int) -> Point:
    """One temporal step of each of `count` sessions."""
    states = [made.temporal_state() for _ in range(count)]
    row = np.ones((1, cfg.streams), np.int64)
    taken = []
    for _ in range(steps + 5):
        start = time.perf_counter()
        for state in states:
            hidden = made.temporal.run(state, {"row": row})["hidden"]
            depth_state = made.depth_state()
            for program in made.depth:
                program.run(depth_state, {"hidden": hidden, "token": np.ones(1, np.int64)})
        taken.append((time.perf_counter() - start) * 1e3)
        READ.measure()
    bandwidth = float(np.median(READ.rounds[-len(taken) :]))
    found = count, float(np.median(taken[5:])), count * step_bytes(cfg, weights, 0, "int8") / 1e6 / bandwidth
    print(f"{count:>6} sessions {found[1]:7.1f} ms, limit {found[2]:6.1f} ms at {bandwidth:.1f} GB/s", flush=True)
    return found


def draw(panels: dict[str, dict[str, list[Point]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for name, points in lines.items():
            x, taken, limit = np.array(points).T
            (line,) = axis.plot(x, taken, "o-", label=f"{name} cache")
            axis.plot(x, limit, ":", color=line.get_color(), label="its bytes, read once")
        axis.axhline(80, color="grey", linewidth=0.8)
        axis.set(title=title, ylabel="ms a step", ylim=(0, None))
        axis.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
