"""One language-model step (temporal transformer and depformer) in official shapes with random weights.

    python benchmarks/lm_step.py [--shape hibiki-1b|moshi-7b] [--bits 4 8] [--context 500 3000]
        [--cache float32 int8] [--peer]

Reports the bytes of weights and cache a step must read, and which fraction of the DRAM bandwidth that is; the bandwidth is read
between the steps (median), because on a shared machine it changes by the minute.
"""

import argparse
import time

import numpy as np
import shapes
from peers.run import peer
from timing import Times, machine, summary

from clearline.backends import Wanted, open_backend
from clearline.backends.native import SCALED
from clearline.backends.onnx_ring import Int8Ring
from clearline.config import LMConfig
from clearline.generate import LMPrograms
from clearline.lab.bench import Bandwidth, matrix_bytes
from clearline.ops import Ring, Weight

WARM_UP = 5
SHAPES = {"hibiki-1b": shapes.hibiki_1b, "moshi-7b": shapes.moshi_7b}


def step_bytes(cfg: LMConfig, weights: dict[str, Weight], filled: int, cache: str) -> int:
    """Bytes that one step cannot avoid reading: every linear weight, the keys and values so far; of tables only rows."""
    heads = cfg.transformer.num_kv_heads * cfg.transformer.head_dim
    width = {"float32": 4, "int8": 1 + 4 / SCALED}[cache]
    cached = 2 * width * heads * min(filled, cfg.transformer.context) * cfg.transformer.num_layers
    return matrix_bytes(weights) + int(cached)


def ours(programs: LMPrograms, filled: int, steps: int, bandwidth: Bandwidth | None = None) -> tuple[Times, Times]:
    """Times of the temporal transformer and of the depformer; `bandwidth` is measured in turn with them."""
    state = programs.temporal_state()
    rng = np.random.default_rng(0)
    for leaf in state.values():
        if isinstance(leaf, Ring):
            leaf.reserve(filled)
            leaf.k[:] = 1 if isinstance(leaf, Int8Ring) else 0.1
            if isinstance(leaf, Int8Ring):
                for scale in (leaf.k_scale, leaf.v_scale):
                    scale[:] = 0.1
    state["position"] = np.array([filled])
    temporal: list[float] = []
    depth: list[float] = []
    depth_state = programs.depth_state()
    for _ in range(steps + WARM_UP):
        row = rng.integers(0, 2048, (1, programs.cfg.streams))
        start = time.perf_counter()
        hidden = programs.temporal.run(state, {"row": row})["hidden"]
        middle = time.perf_counter()
        depth_state["position"] = np.zeros(1, np.int64)
        for k, program in enumerate(programs.depth):
            program.run(depth_state, {"hidden": hidden, "token": np.array([k])})["logits"].argmax()
        temporal.append((middle - start) * 1e3)
        depth.append((time.perf_counter() - middle) * 1e3)
        if bandwidth is not None and len(depth) % 3 == 0:
            bandwidth.measure()
    return summary(temporal[WARM_UP:]), summary(depth[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="hibiki-1b")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--context", type=int, nargs="+", default=[500, 3000])
    parser.add_argument("--cache", nargs="+", choices=["float32", "int8"], default=["float32", "int8"], help="of keys and values")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="time PyTorch moshi in bf16 too")
    args = parser.parse_args()
    print(machine())
    print("\n| step | temporal | depformer | sum | GB a step | DRAM read GB/s meanwhile | of it |\n|---|---|---|---|---|---|---|")
    cfg = SHAPES[args.shape]()
    for bits in args.bits:
        weights = shapes.random_lm(cfg, bits)
        for cache in args.cache:
            backend = open_backend("onnx", Wanted(args.threads, cache=None if cache == "float32" else cache))
            programs = LMPrograms(cfg, backend, weights)
            for filled in args.context:
                read = Bandwidth(args.threads)
                temporal, depth = ours(programs, filled, args.steps, read)
                bandwidth = float(np.median(read.rounds))
                total = temporal.median + depth.median
                size = step_bytes(cfg, weights, filled, cache) / 1e9
                print(
                    f"| {args.shape} q{bits}, {cache} cache, {filled} filled | {temporal.median:.1f} ms | {depth.median:.1f} ms "
                    f"| {total:.1f} ms | {size:.2f} | {bandwidth:.1f} | {size / total * 1e3 / bandwidth:.0%} |",
                    flush=True,
                )
            del programs, backend
        del weights
    if args.peer:
        for filled in args.context:
            result = peer("lm_moshi.py", args.steps, args.threads, args.shape, filled)
            if isinstance(result, str):
                print(f"| moshi (PyTorch bf16) | {result} | | | | | |")
            else:
                temporal, depth = result["temporal"], result["depth"]
                print(
                    f"| moshi (PyTorch bf16), whole ring | {temporal.median:.1f} ms | {depth.median:.1f} ms "
                    f"| {temporal.median + depth.median:.1f} ms | | | |"
                )


if __name__ == "__main__":
    main()
