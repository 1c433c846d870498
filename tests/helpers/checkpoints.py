"""The small checkpoints of tests/golden/data, loaded once per test process, and their golden arrays."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import clearline
from clearline import GenerationConfig, Sampling
from clearline.backends import KINDS

DATA = Path(__file__).parents[1] / "golden" / "data"
CASES = sorted(path.parent.name for path in DATA.glob("*/config.json"))
BACKENDS = [name for name, kind in KINDS.items() if kind.installed]
GREEDY = GenerationConfig(text=Sampling.greedy(), audio=Sampling.greedy())
MODEL_FILES = ("config.json", "model.safetensors", "mimi.safetensors", "mimi_config.json", "tokenizer.model")


@cache
def model(case: str, backend: str = "onnx", threads: int | None = None) -> clearline.Model:
    return clearline.load(DATA / case, backend=backend, threads=threads)


@cache
def golden(case: str) -> dict[str, np.ndarray]:
    return load_file(DATA / case / "golden.safetensors")


def assert_close(actual, expected, what: str, tolerance: float = 1e-4) -> None:
    """Largest difference, relative to the largest magnitude expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    scale = max(np.abs(expected).max(), 1e-30)
    error = np.abs(actual - expected).max() / scale
    assert error <= tolerance, f"{what}: relative error {error:.2e}"


def copy_checkpoint(case: str, folder: Path) -> Path:
    """A copy of a golden checkpoint, to be damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copy(DATA / case / name, folder / name)
    return folder


def speech(frames: int, seed: int = 1, rate: int = 24_000) -> np.ndarray:
    """Something lively to hear: float32 [frames * 0.08 s] of tones and noise at `rate`."""
    rng = np.random.default_rng(seed)
    count = int(frames * 0.08 * rate)
    t = np.arange(count) / rate
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t + seed)
    voice = sum(np.sin(2 * np.pi * (110 + 17 * seed) * h * t) / h for h in range(1, 6))
    return (envelope * (0.1 * voice + 0.02 * rng.standard_normal(count))).astype(np.float32)
