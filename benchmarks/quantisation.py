"""How far quantised weights move a model's distributions: KL divergence and agreement of the likeliest token against float32.

Command line:  python benchmarks/quantisation.py [--model FOLDER ...] [--large] [--steps 100] [--out benchmarks/quantisation.md]

Every model is fed the same teacher-forced codes in every precision: for a model FOLDER those of conversations about the recordings
in examples/, and random ones too; for models of random weights (made here) random ones. "weights only" runs the
rounded weights in float32; "as run" is what `load(quantize=...)` does on the onnx backend, whose quantised products round
their inputs to 16 bits as well (to 8 where they are ONNX Runtime's). "MLX q4" is `mlx.nn.quantize`'s rule on the same
tensors, weights only.
"""

import argparse
import platform
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime

import clearline
from clearline.app import code_version
from clearline.audio import read_audio, to_mono
from clearline.backends import get_backend, native
from clearline.checkpoint import is_linear, linear_bits, read_weights
from clearline.config import LMConfig
from clearline.config.compact import acoustic_delays, depformer, moshi
from clearline.generate import LMPrograms
from clearline.model import lm_weights
from clearline.ops import Weight
from clearline.ops.rounding import rounded

Weights = Mapping[str, Weight]


def random_config(large: bool = False) -> LMConfig:
    """The released 7B's shape, smaller: 148 M parameters, or 1.1 G."""
    if large:
        dep = depformer(8, dim=512, heads=8, layers=4, hidden=1408)
        return moshi(2048, 16, 16, text=8000, n_q=16, dep_q=8, delays=acoustic_delays((8, 8), 1), dep=dep)
    dep = depformer(8, dim=256, heads=4, layers=3, hidden=704)
    return moshi(768, 12, 12, text=4000, n_q=16, dep_q=8, delays=acoustic_delays((8, 8), 1), dep=dep)


# Both heads' logits have this standard deviation, which is what text logits of width-normalised hidden states have at a
# gain of 3. The depformer's residual stream is not normalised before its heads: 2.1 was measured.
SPREAD, DEPFORMER_RESIDUAL = 3.0, 2.1


def random_weight(name: str, shape: tuple[int, ...]) -> Weight:
    """Normal weights of variance 1/in; output heads larger, see SPREAD."""
    if len(shape) == 3:
        return Weight(name, np.ones(shape, np.float32))
    gain = {"text_linear": SPREAD, "linears": SPREAD / DEPFORMER_RESIDUAL}.get(name.partition(".")[0], 1.0)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    scale = np.float32(gain / np.sqrt(shape[1] if "emb" not in name else 1))
    return Weight(name, rng.standard_normal(shape, np.float32) * scale)


class OnDisk(Mapping[str, Weight]):
    """Weights in a temporary file that is mapped, so that the system can drop what is not being read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], make: Callable[[str], Weight]) -> None:
        self._shapes = dict(shapes)
        count = sum(int(np.prod(shape)) for shape in shapes.values())
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the weights
        self._file.truncate(4 * count)
        self._weights: dict[str, Weight] = {}
        at = 0
        for name, shape in shapes.items():
            data = np.memmap(self._file, np.float32, "r+", 4 * at, shape)
            data[:] = make(name).dense(np.float32)
            self._weights[name] = Weight(name, data)
            at += data.size

    def __getitem__(self, name: str) -> Weight:
        return self._weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def replaced(weights: Weights, rounding: Callable[[Weight], np.ndarray]) -> Weights:
    """Every matrix that quantisation concerns as float32 numbers after `rounding`, the other weights as they are."""

    def one(name: str) -> Weight:
        weight = weights[name]
        return Weight(name, rounding(weight)) if is_linear(name) and weight.shape[1] % 32 == 0 else weight

    return OnDisk({name: weight.shape for name, weight in weights.items()}, one)


def bfloat16(weight: Weight) -> np.ndarray:
    return weight.dense(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def quantised(weight: Weight, bits: int) -> np.ndarray:
    return rounded(weight, linear_bits(weight.name, bits)).dense(np.float32)


def mlx_q4(weight: Weight) -> np.ndarray:
    """mx.quantize(w, 32, 4) of float32 weights with float32 scales, the numbers it stands for (equal to mlx 0.26.5's)."""
    values = weight.dense(np.float32).reshape(-1, 32)
    high, low = values.max(-1, keepdims=True), values.min(-1, keepdims=True)
    step = np.maximum((high - low) / np.float32(15), np.float32(1e-7))
    from_low = np.abs(low) > np.abs(high)
    step, edge = np.where(from_low, step, -step), np.where(from_low, low, high)
    whole = np.rint(edge / step)
    step = np.where(whole != 0, edge / np.where(whole != 0, whole, 1), step)
    offset = np.where(whole == 0, 0, edge).astype(np.float32)
    codes = np.clip(np.rint((values - offset) / step), 0, 15)
    return (codes * step + offset).astype(np.float32).reshape(weight.shape)


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


def random_codes(cfg: LMConfig, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [T, streams] for the temporal transformer and tokens [T, dep_q] for the depformer, uniform."""
    rng = np.random.default_rng(7)
    rows = rng.integers(0, cfg.card, (steps, cfg.streams))
    rows[:, 0] = rng.integers(0, cfg.text_card, steps)
    rows[0] = cfg.initial_row
    tokens = rng.integers(0, cfg.card, (steps, cfg.dep_q))
    tokens[:, 0] = rng.integers(0, cfg.text_card, steps)
    return rows, tokens


def spoken_codes(model: clearline.Model, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of a conversation: the model hears the recordings of examples/ and silence after each, and answers."""
    size = model.mimi.frame_size
    rows, tokens = [], []
    with model.session(seed=3) as session:
        for path in sorted((Path(__file__).parents[1] / "examples").glob("*.wav")):
            recording = read_audio(path)
            mono = to_mono(recording.samples, recording.rate, model.mimi.sample_rate)
            mono = np.pad(mono, (0, max(0, steps * size - len(mono))))[: steps * size]
            for frame in mono.reshape(-1, size):
                lm = session.step(frame).lm
                rows.append(lm.row)
                tokens.append(np.concatenate([[lm.text_token], lm.audio_tokens[:-1]]))
    return np.stack(rows), np.stack(tokens)


def measure(label: str, cfg: LMConfig, weights: Weights, codes: tuple[np.ndarray, np.ndarray]) -> list[str]:
    expected = logits(cfg, weights, *codes)
    variants: dict[str, Callable[[], Weights]] = {
        "bf16": lambda: replaced(weights, bfloat16),
        "q8, weights only": lambda: replaced(weights, lambda w: quantised(w, 8)),
        "q8, as run": lambda: read_weights(weights, 8),
        "q4, weights only": lambda: replaced(weights, lambda w: quantised(w, 4)),
        "q4, as run": lambda: read_weights(weights, 4),
        "MLX q4, weights only": lambda: replaced(weights, mlx_q4),
    }
    count = sum(int(np.prod(shape)) for shape in lm_weights(cfg).values())
    spread = " and ".join(f"{x.std():.1f}" for x in expected)
    lines = [f"### {label}: {count / 1e6:.0f} M parameters, {len(codes[0])} steps, logits of text and audio spread by {spread}", ""]
    lines += [
        "| | text KL mean | text KL 99% | text top-1 | audio KL mean | audio KL 99% | audio top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, make in variants.items():
        started = time.perf_counter()
        found = logits(cfg, make(), *codes)
        cells = [divergence(a, b) for a, b in zip(expected, found, strict=True) if a.size]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.1e} | {high:.1e} | {same:.1%}" for mean, high, same in cells) + " |")
        print(f"{label} {name}: {time.perf_counter() - started:.0f} s", lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], help="nano, or folders")
    parser.add_argument(
        "--large", action="store_true", help="also a random model of 1.1 G parameters: 6 GB of memory, 9 GB of disk"
    )
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
        "q8 and q4 are `load(quantize=...)` and `clearline convert`: groups of 32 for linears and output heads; q8 symmetric, q4",
        "with a whole zero point each and 8 bits at the heads and where the depformer begins (docs/checkpoints.md).",
        "",
        '"Weights only" computes with the rounded weights in float32; "as run" also rounds the inputs of each product to '
        f"{16 if 'Product' in native.operations() else 8} bits ({native.kernels()}).",
        '"MLX q4" is the rule of `mlx.nn.quantize` (groups of 32 with an offset, all in 4 bits) on the same tensors.',
        "",
        "KL grows with the square of how far the logits spread, and a model far from what it was trained on has no margins: on the",
        "codes of a conversation nano's q8 costs next to nothing, on random codes a hundred times more. Random weights tell what",
        "the arithmetic loses, not how a trained model sounds: their likeliest tokens often nearly tie.",
        "",
    ]
    for name in args.model:
        model = clearline.load(name, backend="onnx")
        weights = {key: Weight(key, weight.dense(np.float32)) for key, weight in model.programs.weights.items()}
        label = Path(name).name
        lines += measure(f"{label}, spoken codes", model.config, weights, spoken_codes(model, args.steps))
        lines += measure(f"{label}, random codes", model.config, weights, random_codes(model.config, args.steps))
    for name in ("random-148M", "random-1B")[: 2 if args.large else 1]:
        cfg = random_config(large=name == "random-1B")
        shapes = lm_weights(cfg)
        weights = OnDisk(shapes, lambda key, shapes=shapes: random_weight(key, shapes[key]))
        steps = args.steps if name == "random-148M" else max(2, args.steps // 4)
        lines += measure(name, cfg, weights, random_codes(cfg, steps))
    # Remarks below the tables are written by hand, and stay.
    remarks = args.out.read_text().partition("\n## ")[1:] if args.out.exists() else ()
    args.out.write_text("\n".join(lines).rstrip() + "\n" + "".join(remarks))


if __name__ == "__main__":
    main()
