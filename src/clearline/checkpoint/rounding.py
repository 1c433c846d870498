"""Weights as they are kept in memory: read as they are, or rounded while they are read."""

from collections.abc import Mapping
from typing import Literal

from clearline.checkpoint.names import is_linear, linear_bits
from clearline.ops import Weight
from clearline.ops.rounding import rounded

Quantize = Literal["q8", "q4"]
BITS: dict[str, int] = {"q8": 8, "q4": 4}


def read_weights(weights: Mapping[str, Weight], bits: int) -> dict[str, Weight]:
    """Every weight read; with `bits`, linears and output heads rounded, embeddings and norms as they are."""
    out: dict[str, Weight] = {}
    for name, weight in weights.items():
        chosen = bits and not weight.bits and is_linear(name) and weight.shape[1] % 32 == 0
        out[name] = rounded(weight, linear_bits(name, bits)) if chosen else weight
    return out
