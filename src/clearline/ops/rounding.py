"""The rules by which `load(quantize=...)` and `clearline convert` round a matrix: q8 symmetric, q4 with a zero point a group."""

import os
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np

from clearline.errors import ConfigError
from clearline.ops.weight import Weight, pack, quantise

GROUP = 32
_TOP = 15  # the largest 4-bit code
# Scales that are tried, as parts of the one that reaches from a group's least to its greatest value: a smaller one cuts
# off the ends and serves the rest better.
_TRIED = np.linspace(1.07, 0.75, 9, dtype=np.float32)
# Values rounded at a time: few enough to stay in a core's own cache while nine scales are tried.
_BLOCK = 1 << 17


def rounded(weight: Weight, bits: int) -> Weight:
    """A matrix [out, in] as q8 (`bits` 8) or q4 (4) has it, in groups of 32 along its input."""
    return quantise(weight, bits, GROUP) if bits == 8 else affine(weight)


def affine(weight: Weight, group: int = GROUP) -> Weight:
    """4 bits: value = code * scale + bias = (code - zero) * scale with a whole `zero` in 0..15, of the least squared error found.

    Scale and bias are numbers that bfloat16 holds exactly and are returned in it: they are the same on every backend, in every
    file, and ONNX Runtime's kernels take the zero points as they are. The range of a group always includes 0. Raises
    ConfigError when the input axis is not a multiple of `group`.
    """
    if len(weight.shape) != 2 or weight.shape[1] % group:
        raise ConfigError(f"{weight.name} {weight.shape} cannot be quantised in groups of {group}")
    step = max(1, _BLOCK // weight.shape[1])

    def part(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _affine_rows(weight.rows(start, start + step).dense(np.float32), group)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets other threads run while it computes
        parts = list(pool.map(part, range(0, weight.shape[0], step)))
    codes, scale, bias = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Weight(weight.name, codes, scale, 4, group, bias)


def _affine_rows(values: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups = values.reshape(-1, group)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    # What is not a number gets no scale that is one, so that it shows.
    whole = _inverse(high - low)
    least, scale, zero = (np.full(len(groups), value, np.float32) for value in (np.inf, np.nan, 0))
    for part in _TRIED:
        tried = _candidate(part, low, high)
        at = _in_steps(groups, *tried)
        at -= _nearest(at)
        error = np.einsum("ij,ij->i", at, at) * np.square(tried[0] * whole)  # of the range's square: no overflow
        better = error < least
        for kept, new in zip((least, scale, zero), (error, *tried), strict=True):
            np.copyto(kept, new, where=better)
    with np.errstate(invalid="ignore"):
        codes = _nearest(_in_steps(groups, scale, zero)).astype(np.uint8)
    stored = [x.astype(ml_dtypes.bfloat16).reshape(len(values), -1) for x in (scale, -zero * scale)]
    return pack(codes.reshape(values.shape), 4), stored[0], stored[1]


def _candidate(part: np.float32, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scale near `part` of the whole range's, and the zero point that puts the range's middle between the codes 7 and 8.

    Their product must fit into bfloat16's 8 significant bits. The zero point has at most 4, so 4 for the scale always do;
    most products are short enough for a scale of 5.
    """
    wanted = (high - low) * (part / _TOP)
    fine, coarse = ((scale, _zero(scale, low, high)) for scale in (_significant(wanted, 5), _significant(wanted, 4)))
    product = fine[0] * fine[1]
    fits = product == product.astype(ml_dtypes.bfloat16)
    return np.where(fits, fine[0], coarse[0]), np.where(fits, fine[1], coarse[1])


def _significant(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many significant bits."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * (1 << bits)) / np.float32(1 << bits), exponent).astype(np.float32)


def _zero(scale: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    zero: np.ndarray = np.clip(np.rint(_TOP / 2 - (low + high) / 2 * _inverse(scale)), 0, _TOP)
    return zero


def _in_steps(groups: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Values as codes before rounding."""
    at: np.ndarray = groups * _inverse(scale)[:, None]
    at += zero[:, None]
    return at


def _nearest(at: np.ndarray) -> np.ndarray:
    codes = np.rint(at)
    return np.clip(codes, 0, _TOP, out=codes)


def _inverse(scale: np.ndarray) -> np.ndarray:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
