"""Models in official shapes with random weights, made in memory: nothing to download, nothing to store."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from clearline.checkpoint.names import is_linear, linear_bits
from clearline.config import DepformerConfig, LMConfig, TransformerConfig
from clearline.config.kyutai import MOSHI_7B, official_mimi, parse_checkpoint
from clearline.model import lm_weights, mimi_weights
from clearline.ops import Weight


def hibiki_1b() -> LMConfig:
    """dim 2048 x 16 layers, feed-forward 5632, depformer 1024 x 6 layers x 8 steps, feed-forward 2816: 1.8 G parameters."""
    transformer = TransformerConfig(2048, 16, 16, (5632,), 3000, gating="silu", norm="rms_norm_f32")
    steps = TransformerConfig(1024, 16, 6, (2816,) * 8, 8, gating="silu", norm="rms_norm_f32", position="none", steps=8)
    return LMConfig(
        transformer, DepformerConfig(steps, multi_linear=True), n_q=16, dep_q=8, card=2048, text_card=48000,
        text_card_out=48000, delays=(0, 0, *[2] * 7, 0, *[2] * 7),
    )  # fmt: skip


def moshi_7b() -> LMConfig:
    """The released Moshi."""
    return parse_checkpoint(MOSHI_7B).lm


def with_context(cfg: LMConfig, context: int) -> LMConfig:
    return replace(cfg, transformer=replace(cfg.transformer, context=context))


def random_lm(cfg: LMConfig, bits: int, seed: int = 0) -> dict[str, Weight]:
    """Random weights of variance 1/fan-in; linear ones as `load(quantize=...)` has them when `bits` is 8 or 4, else float32."""
    return _random(lm_weights(cfg), bits, seed)


def random_mimi(seed: int = 0) -> dict[str, Weight]:
    return _random(mimi_weights(official_mimi()), 0, seed)


def parameters(weights: Mapping[str, Weight]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights.values())


def _random(shapes: Mapping[str, tuple[int, ...]], bits: int, seed: int) -> dict[str, Weight]:
    rng = np.random.default_rng(seed)
    weights: dict[str, Weight] = {}
    # Matrices of one shape have one set of codes, so that a 7B fits: the backend packs each of them into memory of its own,
    # and it is from there that a step reads. Scales and offsets, which it may read where they are, are each matrix's own.
    codes: dict[tuple[int, ...], np.ndarray] = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) or 1
        if bits and is_linear(name):
            own = linear_bits(name, bits)
            stored = (shape[0], shape[1] * own // 8)
            if stored not in codes:
                codes[stored] = rng.integers(0, 256, stored, np.uint8)
            # As `clearline.ops.rounding` has them: q8 symmetric, q4 with a whole zero point a group.
            scale = np.full((shape[0], shape[1] // 32), 2.0 ** -np.rint(own - 2 + np.log2(fan_in) / 2), np.float32)
            bias = -rng.integers(6, 10, scale.shape).astype(np.float32) * scale if own == 4 else None
            weights[name] = Weight(name, codes[stored], scale, own, 32, bias)
        elif name.endswith(("alpha", "norm1.weight", "norm2.weight", "scale")):
            weights[name] = Weight(name, np.full(shape, 0.5, np.float32))
        else:
            weights[name] = Weight(name, rng.standard_normal(shape, np.float32) / np.float32(fan_in**0.5))
    return weights
