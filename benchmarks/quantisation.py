"""How far quantised weights move a model's distributions: KL divergence and agreement of the likeliest token against float32.

Command line:  python benchmarks/quantisation.py [--model FOLDER ...] [--large] [--steps 100] [--out benchmarks/quantisation.md]

Every model is fed the same teacher-forced codes in every precision: random codes for models of random weights (`random-148M`
is made here), and for a model FOLDER too. "weights only" runs the rounded weights in float32; "as run" is what
`load(quantize=...)` does on the onnx backend, whose quantised products round their inputs to 8 bits as well.
"""

import argparse
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime

from clearline.app import _loaded, code_version, model_folder
from clearline.backends import get_backend
from clearline.checkpoint import open_checkpoint
from clearline.config import LMConfig
from clearline.config.compact import acoustic_delays, depformer, moshi
from clearline.generate import LMPrograms
from clearline.model import lm_weights
from clearline.ops import Weight

Weights = Mapping[str, Weight]


def random_config(large: bool = False) -> LMConfig:
    """The released 7B's shape, smaller: 148 M parameters, or 1.1 G."""
    if large:
        dep = depformer(8, dim=512, heads=8, layers=4, hidden=1408)
        return moshi(2048, 16, 16, text=8000, n_q=16, dep_q=8, delays=acoustic_delays((8, 8), 1), dep=dep)
    dep = depformer(8, dim=256, heads=4, layers=3, hidden=704)
    return moshi(768, 12, 12, text=4000, n_q=16, dep_q=8, delays=acoustic_delays((8, 8), 1), dep=dep)


def random_weights(cfg: LMConfig, seed: int = 1) -> dict[str, Weight]:
    """Normal weights of variance 1/in; output heads three times larger, so that logits spread like a trained model's."""
    rng = np.random.default_rng(seed)
    out: dict[str, Weight] = {}
    for name, shape in lm_weights(cfg).items():
        if len(shape) == 3:
            data = np.ones(shape, np.float32)
        else:
            gain = 3.0 if name.startswith(("text_linear", "linears.")) else 1.0
            data = rng.standard_normal(shape, np.float32) * np.float32(gain / np.sqrt(shape[1] if "emb" not in name else 1))
        out[name] = Weight(name, data)
    return out


def dense(weights: Weights) -> dict[str, Weight]:
    """Quantised weights as the float32 numbers they stand for."""
    return {name: Weight(name, weight.dense(np.float32)) if weight.bits else weight for name, weight in weights.items()}


def bfloat16(weights: Weights) -> dict[str, Weight]:
    return {name: Weight(name, w.dense(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)) for name, w in weights.items()}


def logits(cfg: LMConfig, weights: Weights, rows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Text logits [T, text] and audio logits [T, dep_q, card] for given rows and given depformer tokens."""
    programs = LMPrograms(cfg, get_backend("onnx"), weights)
    state, text, audio = programs.temporal_state(), [], []
    for row, depth in zip(rows, tokens, strict=True):
        out = programs.temporal.run(state, {"row": row[None]})
        text.append(out["text_logits"][0].copy())
        inner, steps = programs.depth_state(), []
        for program, token in zip(programs.depth, depth, strict=True):
            steps.append(program.run(inner, {"hidden": out["hidden"], "token": np.array([token])})["logits"][0].copy())
        audio.append(np.stack(steps))
    return np.stack(text).astype(np.float64), np.stack(audio).astype(np.float64)


def divergence(expected: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Mean and 99th percentile of KL(expected || found) in nats, and how often the likeliest token is the same."""
    log_p, log_q = (x - np.logaddexp.reduce(x, -1, keepdims=True) for x in (expected, found))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return float(kl.mean()), float(np.quantile(kl, 0.99)), float((expected.argmax(-1) == found.argmax(-1)).mean())


def measure(label: str, cfg: LMConfig, weights: Weights, steps: int) -> list[str]:
    rng = np.random.default_rng(7)
    rows = rng.integers(0, cfg.card, (steps, cfg.streams))
    rows[:, 0] = rng.integers(0, cfg.text_card, steps)
    rows[0] = cfg.initial_row
    tokens = rng.integers(0, cfg.card, (steps, cfg.dep_q))
    tokens[:, 0] = rng.integers(0, cfg.text_card, steps)
    expected = logits(cfg, dense(weights), rows, tokens)
    variants: dict[str, Callable[[], Weights]] = {
        "bf16": lambda: bfloat16(weights),
        "q8, weights only": lambda: dense(_loaded(weights, 8)),
        "q8, as run": lambda: _loaded(weights, 8),
        "q4, weights only": lambda: dense(_loaded(weights, 4)),
        "q4, as run": lambda: _loaded(weights, 4),
    }
    count = sum(int(np.prod(shape)) for shape in lm_weights(cfg).values())
    lines = [f"### {label}: {count / 1e6:.0f} M parameters, {steps} steps", ""]
    lines += [
        "| | text KL mean | text KL 99% | text top-1 | audio KL mean | audio KL 99% | audio top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, make in variants.items():
        started = time.perf_counter()
        found = logits(cfg, make(), rows, tokens)
        cells = [divergence(a, b) for a, b in zip(expected, found, strict=True) if a.size]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.1e} | {high:.1e} | {same:.1%}" for mean, high, same in cells) + " |")
        print(f"{label} {name}: {time.perf_counter() - started:.0f} s", flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], help="nano, or folders")
    parser.add_argument("--large", action="store_true", help="also a random model of 1.1 G parameters; needs 16 GB")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    lines = [
        "# Quantisation: what it costs",
        "",
        "KL(float32 || quantised) in nats and agreement of the likeliest token, teacher-forced; lower KL is better. Made by",
        f"`python benchmarks/quantisation.py` with Clearline {code_version()}, ONNX Runtime {onnxruntime.__version__}, Python",
        f"{platform.python_version()}.",
        "",
        'q8 and q4 are `load(quantize=...)` and `clearline convert`: symmetric groups of 32 for linears and output heads. "Weights',
        'only" computes with the rounded weights in float32; "as run" also rounds the inputs of each product to 8 bits, as ONNX',
        "Runtime's kernels do. Random weights tell what the arithmetic loses, not how a trained model sounds: their likeliest",
        "tokens often nearly tie, so that a small error already changes which one it is.",
        "",
    ]
    for name in ("random-148M", "random-1B")[: 2 if args.large else 1]:
        cfg = random_config(large=name == "random-1B")
        lines += measure(name, cfg, random_weights(cfg), args.steps)
    for name in args.model:
        checkpoint = open_checkpoint(model_folder(name))
        lines += measure(Path(name).name, checkpoint.config.lm, dict(checkpoint.lm_weights()), args.steps)
    args.out.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
