"""One language-model step on MLX: Clearline's mlx backend beside Kyutai's moshi_mlx, and ONNX Runtime on the same CPU.

    python benchmarks/mlx_step.py [--shape nano hibiki-1b] [--bits 0 4] [--steps 20] [--rounds 3] [--compiled]

Runs where moshi_mlx, mlx and Clearline are installed together, on MLX's default device. Greedy steps with sampling and
alignment, random weights and float32 activations (moshi_mlx's own bfloat16 takes eight times as long on a CPU). The programs
take turns, so that whatever else the machine does falls on all of them; both wall clock and CPU time are given.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import shapes
from mlx.utils import tree_map
from moshi_mlx import models
from moshi_mlx.models.generate import LmGen
from moshi_mlx.utils.sampling import Sampler
from timing import machine

import clearline
from clearline.app import nano_folder
from clearline.backends import get_backend
from clearline.backends.mlx_run import Mlx
from clearline.checkpoint import open_checkpoint
from clearline.config import LMConfig
from clearline.generate import Generator, LMPrograms
from clearline.ops import Backend, Weight
from clearline.ops.weight import quantise

sys.path.append(str(Path(__file__).parents[1] / "oracle"))
from make_formats_mlx import lm_config

Step = Callable[[np.ndarray], object]


def model(shape: str, bits: int) -> tuple[LMConfig, dict[str, Weight]]:
    """Config and weights; nano's own, others random."""
    if shape != "nano":
        cfg = shapes.hibiki_1b()
        return cfg, shapes.random_lm(cfg, bits)
    checkpoint = open_checkpoint(nano_folder())
    weights = dict(checkpoint.lm_weights())
    if bits:
        linear = ("in_projs", "out_projs", "linear_in", "linear_out", "linears", "text_linear", "depformer_in")
        for name, weight in weights.items():
            if any(part in linear for part in name.split(".")) and weight.shape[1] % 32 == 0:
                weights[name] = quantise(weight, bits)
    return checkpoint.config.lm, weights


def ours(cfg: LMConfig, weights: dict[str, Weight], backend: Backend) -> Step:
    return Generator(LMPrograms(cfg, backend, weights), clearline.preset("greedy")).step


def theirs(cfg: LMConfig, bits: int, steps: int) -> Step:
    """moshi_mlx in the same shape, random weights."""
    main, dep = cfg.transformer, cfg.depformer
    assert dep is not None
    raw = {
        "dim": main.dim, "num_heads": main.num_heads, "num_layers": main.num_layers, "context": main.context,
        "hidden_scale": 1.5 * main.ffn_hidden[0] / main.dim, "depformer_dim": dep.transformer.dim,
        "depformer_num_heads": dep.transformer.num_heads, "depformer_num_layers": dep.transformer.num_layers,
        "depformer_dim_feedforward": 3 * dep.transformer.ffn_hidden[0] // 2, "dep_q": cfg.dep_q, "text_card": cfg.text_card,
        "card": cfg.card, "n_q": cfg.n_q, "delays": list(cfg.delays),
    }  # fmt: skip
    lm = models.Lm(lm_config(raw))
    lm.set_dtype(mx.float32)
    if bits:
        nn.quantize(lm, bits=bits, group_size=32, class_predicate=lambda _, part: isinstance(part, nn.Linear))
    # Values do not matter; drawing and quantising random ones would take minutes, and nothing has been computed yet.
    lm.update(tree_map(lambda x: mx.full(x.shape, 0.01).astype(x.dtype), lm.parameters()))
    mx.eval(lm.parameters())
    gen = LmGen(lm, steps, text_sampler=Sampler(temp=0), audio_sampler=Sampler(temp=0))

    def step(codes: np.ndarray) -> None:
        text, _ = gen.step(mx.array(codes)[None])
        mx.eval(text, gen.gen_sequence)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=["nano", "hibiki-1b"], default=["nano", "hibiki-1b"])
    parser.add_argument("--bits", type=int, nargs="+", choices=[0, 4, 8], default=[0, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="with mx.compile too; on a CPU that starts g++ for minutes")
    args = parser.parse_args()
    print(f"{machine()}; MLX {mx.__version__} on {mx.default_device()}")
    print("\n| step | wall clock | CPU time | all steps |\n|---|---|---|---|", flush=True)
    device = "cpu" if mx.default_device() == mx.Device(mx.cpu) else ("metal" if mx.metal.is_available() else "cuda")
    for shape in args.shape:
        for bits in args.bits:
            if shape != "nano" and not bits:
                continue  # 7 GB twice
            cfg, weights = model(shape, bits)
            total = args.steps * args.rounds + args.rounds + 1
            candidates = {
                "moshi_mlx": theirs(cfg, bits, total),
                f"clearline, mlx/{device}": ours(cfg, weights, Mlx(device, compiled=False if device == "cpu" else None)),
                "clearline, onnx": ours(cfg, weights, get_backend("onnx", 1)),
            }
            if args.compiled:
                candidates[f"clearline, mlx/{device}, compiled"] = ours(cfg, weights, Mlx(device, compiled=True))
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
            rng = np.random.default_rng(0)
            for _ in range(args.rounds):
                for name, step in candidates.items():
                    for i in range(args.steps + 1):
                        codes = rng.integers(0, cfg.card, cfg.user_streams)
                        wall, cpu = time.perf_counter(), time.process_time()
                        step(codes)
                        if i:  # the first of a round comes to a cold cache
                            taken[name].append(((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3))
            for name, times in taken.items():
                wall, cpu = np.median(np.array(times), 0)
                what = f"{shape} {f'q{bits}' if bits else 'float32'}"
                print(f"| {what}, {name} | {wall:.1f} ms | {cpu:.1f} ms | {len(times)} |", flush=True)
            print(json.dumps({"shape": shape, "bits": bits}), file=sys.stderr)


if __name__ == "__main__":
    main()
