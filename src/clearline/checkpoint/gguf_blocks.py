"""Writing weights as GGUF's quantised blocks of 32: Q8_0, Q4_0 and, for asymmetric groups, Q4_1."""

import numpy as np

from clearline.ops import Weight
from clearline.ops.weight import quantise

BLOCK = 32
# ggml's type numbers, and bytes a block.
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}


def block_kind(stored: Weight | None, bits: int) -> str:
    """The block type that stored codes become (None: they are yet to be made). 8-bit blocks have no offsets to keep."""
    kept = stored is not None and stored.bits == bits and stored.group % BLOCK == 0
    return "Q8_0" if bits == 8 else "Q4_1" if kept and stored is not None and stored.bias is not None else "Q4_0"


def blocks(weight: Weight, kind: str) -> np.ndarray:
    """uint8 [out, bytes]. Codes that fit are kept, their scales rounded to float16, the blocks' own type; others are made.

    Codes that came from GGUF blocks of the same type give the same bytes back.
    """
    bits = 8 if kind == "Q8_0" else 4
    if weight.bits != bits or weight.group % BLOCK or (weight.bias is not None) != (kind == "Q4_1"):
        weight = quantise(Weight(weight.name, weight.dense(np.float32)), bits, BLOCK, np.float16)
    assert weight.scale is not None
    rows, count, spread = weight.shape[0], weight.shape[1] // BLOCK, weight.group // BLOCK
    heads = [weight.scale] if weight.bias is None else [weight.scale, weight.bias]
    half = [np.repeat(head.astype("<f2"), spread, 1)[..., None].view(np.uint8) for head in heads]
    codes = weight.codes().reshape(rows, count, BLOCK)
    # 8 bits: unsigned with zero point 128 to int8. 4 bits: the first half of a block low, the second high.
    body = codes ^ np.uint8(128) if bits == 8 else codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << 4
    return np.concatenate([*half, body], -1).reshape(rows, -1)
