"""Deterministic Mimi weights and test audio from NumPy's Philox counter, without torch.

Every tensor is a pure function of (seed, tensor name, shape): the raw 64-bit Philox stream,
keyed by the seed and the CRC-32 of the name, is turned into uniform numbers with exact
floating-point operations only, so the values are the same on every platform.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path

import numpy as np

FULL_MIMI_SEED = 20261120
CODEBOOK_EPSILON = 1e-5


def uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float64 numbers in [-1, 1) for one named tensor."""
    key = np.array([seed, zlib.crc32(name.encode())], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape)


def spread(seed: int, name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Uniform numbers with mean 0 and the given standard deviation."""
    return uniform(seed, name, shape) * (math.sqrt(3.0) * std)


def cluster_usage(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Usage counts of one codebook: between 0.25 and 8.25, but 0 or 1e-6 for about one entry in 16."""
    u = uniform(seed, name, shape)
    usage = 4.25 + 4.0 * u
    rare = np.abs(u * 64 - np.round(u * 64)) < 1 / 32
    return np.where(rare, np.where(u > 0, 1e-6, 0.0), usage).astype(np.float32)


def mimi_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The float32 weight called `name` in Kyutai's naming (per-layer `in_projs.0.weight` form).

    Scales are chosen so that a signal neither dies out nor explodes, every part matters
    (layer scales near 0.4, norms and biases away from their neutral values), and the codebooks
    get finer with depth."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "_initialized":
        value = np.ones(shape)
    elif leaf == "cluster_usage":
        value = cluster_usage(seed, name, shape)
    elif leaf == "embedding_sum":
        usage = cluster_usage(seed, name.replace("embedding_sum", "cluster_usage"), shape[:1])
        depth = int(re.search(r"layers\.(\d+)\.", name).group(1))
        std = 1.0 if "rvq_first" in name else 0.9 * 0.93**depth
        value = spread(seed, name, shape, std) * np.maximum(usage, CODEBOOK_EPSILON)[:, None]
    elif leaf == "scale":
        value = 0.4 + 0.2 * uniform(seed, name, shape)
    elif re.search(r"\.norm\d\.", name):
        value = uniform(seed, name, shape) * (0.4 if leaf == "weight" else 0.2)
        if leaf == "weight":
            value = value + 1.0
    elif leaf == "bias":
        value = spread(seed, name, shape, 0.004 if shape == (1,) else 0.06)
    elif ".convtr." in name:
        # The stride is half the kernel, so two taps per channel reach each output sample.
        fan = 2 if "upsample" in name else 2 * shape[0]
        value = spread(seed, name, shape, 1.2 / math.sqrt(fan))
    elif len(shape) == 3:
        gain = 1.2
        if name.startswith("encoder.model.0."):
            gain = 4.0
        elif shape[0] == 1:
            gain = 0.1
        elif ".block." in name:
            gain = 0.9
        elif "_proj.weight" in name or "downsample" in name:
            gain = 1.0
        value = spread(seed, name, shape, gain / math.sqrt(shape[1] * shape[2]))
    elif len(shape) == 2:
        gain = 1.5 if ("in_projs" in name or "linear1" in name) else 1.0
        value = spread(seed, name, shape, gain / math.sqrt(shape[1]))
    else:
        raise ValueError(f"no rule for {name} {shape}")
    return np.asarray(value, dtype=np.float32)


def mimi_state(shapes: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
    """All tensors of a Mimi given its name -> shape table."""
    return {name: mimi_tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def stack_attention(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames `in_projs.{i}.weight` / `out_projs.{i}.weight` to the stacked names of older files."""
    groups: dict[str, dict[int, np.ndarray]] = {}
    out: dict[str, np.ndarray] = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*)\.(in|out)_projs\.(\d+)\.weight", name)
        if match is None:
            out[name] = value
            continue
        prefix, kind, index = match.groups()
        target = f"{prefix}.in_proj_weight" if kind == "in" else f"{prefix}.out_proj.weight"
        groups.setdefault(target, {})[int(index)] = value
    for target, parts in groups.items():
        out[target] = np.concatenate([parts[i] for i in range(len(parts))], axis=0)
    return out


def load_full_mimi(folder: Path) -> dict[str, np.ndarray]:
    """The official-shape Mimi whose name -> shape table lies in `folder/shapes.json`."""
    table = json.loads((Path(folder) / "shapes.json").read_text())
    return mimi_state(table["shapes"], table["seed"])


def test_pcm(frames: int, seed: int, frame_size: int = 1920, rate: int = 24000) -> np.ndarray:
    """Test audio, float32 [frames * frame_size]: tones, a chirp, noise bursts and silence in turn."""
    n = frames * frame_size
    t = np.arange(n) / rate
    noise = uniform(seed, "pcm.noise", (n,))
    pitch = 90.0 + 40.0 * (uniform(seed, "pcm.pitch", (frames,)) + 1.0)
    out = np.zeros(n)
    for frame in range(frames):
        part = slice(frame * frame_size, (frame + 1) * frame_size)
        local = t[part]
        kind = (frame + seed) % 7
        if kind == 0:
            out[part] = 0.3 * np.sin(2 * np.pi * pitch[frame] * local)
        elif kind == 1:
            out[part] = 0.25 * np.sin(2 * np.pi * pitch[frame] * 8 * local) + 0.02 * noise[part]
        elif kind == 2:
            out[part] = 0.2 * np.sin(2 * np.pi * (200.0 + 15000.0 * (local - local[0])) * local)
        elif kind == 3:
            out[part] = 0.15 * noise[part] * np.linspace(1.0, 0.1, frame_size)
        elif kind == 4:
            voice = sum(np.sin(2 * np.pi * pitch[frame] * h * local) / h for h in range(1, 9))
            out[part] = 0.15 * voice
        elif kind == 5:
            out[part] = 0.5 * noise[part] * (np.arange(frame_size) % 480 < 40)
    return out.astype(np.float32)
