"""GGUF's quantised blocks as affine groups: exactly where the format allows, dequantised to float32 where not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clearline.ops import Weight
from clearline.ops.weight import pack


@dataclass(frozen=True)
class BlockType:
    """`size` values are stored in `nbytes` bytes. `decode` takes blocks uint8 [rows, blocks, nbytes]; exact: no rounding."""

    name: str
    size: int
    nbytes: int
    decode: Callable[[np.ndarray], Weight]
    exact: bool = True


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` of every block, as float32 [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _nibbles(bytes_: np.ndarray) -> np.ndarray:
    """[..., n] bytes -> [..., 2n] codes: all low halves, then all high halves, as ggml orders them."""
    return np.concatenate([bytes_ & 15, bytes_ >> 4], -1)


def _q8_0(blocks: np.ndarray) -> Weight:
    codes = blocks[..., 2:] ^ 128  # int8 to unsigned with zero point 128
    return Weight("", codes.reshape(len(blocks), -1), _half(blocks, 0), 8, 32)


def _q4_0(blocks: np.ndarray) -> Weight:
    codes = _nibbles(blocks[..., 2:])
    return Weight("", pack(codes.reshape(len(blocks), -1), 4), _half(blocks, 0), 4, 32)


def _q4_1(blocks: np.ndarray) -> Weight:
    scale, minimum = _half(blocks, 0), _half(blocks, 2)
    codes = _nibbles(blocks[..., 4:])
    return Weight("", pack(codes.reshape(len(blocks), -1), 4), scale, 4, 32, minimum)


def _six_bit(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight 6-bit scales and eight 6-bit minima of K-quants, from 12 bytes [..., 12] -> [..., 8] each."""
    low, high = packed[..., 0:4], packed[..., 4:8]
    both = packed[..., 8:12]
    scales = np.concatenate([low & 63, (both & 15) | (low >> 6 << 4)], -1)
    minima = np.concatenate([high & 63, (both >> 4) | (high >> 6 << 4)], -1)
    return scales, minima


def _k_groups(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """scale and minimum of each group of 32: float32 [rows, 8 * blocks] each."""
    scales, minima = _six_bit(blocks[..., 4:16])
    scale = _half(blocks, 0)[..., None] * scales
    minimum = _half(blocks, 2)[..., None] * minima
    return scale.reshape(len(blocks), -1), minimum.reshape(len(blocks), -1)


def _q4_k(blocks: np.ndarray) -> Weight:
    scale, minimum = _k_groups(blocks)
    # 32 bytes hold two groups of 32: the first in the low halves, the second in the high ones.
    codes = _nibbles(blocks[..., 16:144].reshape(*blocks.shape[:2], 4, 32))
    return Weight("", pack(codes.reshape(len(blocks), -1), 4), scale, 4, 32, -minimum)


def _q5_k(blocks: np.ndarray) -> Weight:
    scale, minimum = _k_groups(blocks)
    low = _nibbles(blocks[..., 48:176].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
    bit = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = (low | bit << 4).reshape(len(blocks), -1, 32)
    return Weight("", (codes * scale[..., None] - minimum[..., None]).reshape(len(blocks), -1))


def _q6_k(blocks: np.ndarray) -> Weight:
    shape = blocks.shape[:2]
    low = blocks[..., 0:128].reshape(*shape, 2, 64)
    low = _nibbles(low).reshape(*shape, 2, 4, 32)
    high = blocks[..., 128:192].reshape(*shape, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = (low | high << 4).astype(np.int8) - 32
    scale = _half(blocks, 208)[..., None] * blocks[..., 192:208].view(np.int8)
    values = codes.reshape(*shape, 16, 16) * scale[..., None]
    return Weight("", values.astype(np.float32).reshape(len(blocks), -1))


# By ggml's type number.
BLOCK_TYPES: dict[int, BlockType] = {
    2: BlockType("Q4_0", 32, 18, _q4_0),
    3: BlockType("Q4_1", 32, 20, _q4_1),
    8: BlockType("Q8_0", 32, 34, _q8_0),
    12: BlockType("Q4_K", 256, 144, _q4_k),
    13: BlockType("Q5_K", 256, 176, _q5_k, exact=False),
    14: BlockType("Q6_K", 256, 210, _q6_k, exact=False),
}
