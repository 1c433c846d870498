"""NumPy's Philox4x64-10 in PyTorch's integer operations: the noise of `clearline.generate.noise`, made on the device.

PyTorch has signed 64-bit integers only; they wrap, so sums and products have the right bits, and a shift to the right is
followed by a mask.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10


class LaneNoise:
    """Exp(1) noise of every lane, stream and token id, float64, in tensors that stay where they are."""

    def __init__(self, lanes: int, counts: Sequence[int], device: torch.device) -> None:
        """counts: how many token ids each stream has, stream 0 first."""
        blocks = [-(-count // 4) for count in counts]
        # NumPy counts before it draws: the first block of a stream is number 1.
        self._block = torch.cat([torch.arange(1, n + 1) for n in blocks]).to(device)
        self._stream = torch.cat([torch.full((n,), stream) for stream, n in enumerate(blocks)]).to(device)
        self._values = torch.zeros(lanes, 4 * sum(blocks), dtype=torch.float64, device=device)
        parts = self._values.split([4 * n for n in blocks], 1)
        self.streams = [part[:, :count] for part, count in zip(parts, counts, strict=True)]

    def draw(self, key: Tensor, frame: Tensor) -> None:
        """The noise of this frame, of all streams. key int64 [B, 2] (seed and session, as bits), frame int64 [B]."""
        raw = philox(key, frame, self._stream, self._block)
        # The middle of each of 2^53 cells, as on the host.
        uniform = (((raw >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
        self._values.copy_(-torch.log(uniform))


def philox(key: Tensor, frame: Tensor, stream: Tensor, block: Tensor) -> Tensor:
    """The bits that `numpy.random.Philox(key, counter=[block - 1, 0, frame, stream])` draws next, four for each of the
    streams and blocks [N]: int64 [B, 4 N]. key int64 [B, 2], frame int64 [B].
    """
    shape = (frame.shape[0], block.shape[0])
    # Words 0 and 2 of the counter are multiplied, 1 and 3 are not: each pair is one tensor [2, B, N].
    even = torch.stack([block.expand(shape), frame[:, None].expand(shape)])
    odd = torch.stack([torch.zeros_like(even[0]), stream.expand(shape)])
    key = key.T[:, :, None]
    multiplier, halves, weyl = _constants(str(block.device))
    for number in range(_ROUNDS):
        if number:
            key = key + weyl
        high, low = _product(even, multiplier, halves)
        even, odd = high.flip(0) ^ odd ^ key, low.flip(0)
    return torch.stack([even[0], odd[0], even[1], odd[1]], -1).reshape(shape[0], -1)


@cache
def _constants(device: str) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Multipliers, their high and low halves, and Weyl constants, [2, 1, 1]."""
    first, second = (torch.tensor([[[as_bits(x)]] for x in pair], device=device) for pair in (_MULTIPLIERS, _WEYL))
    return first, ((first >> 32) & _LOW, first & _LOW), second


def _product(a: Tensor, b: Tensor, halves: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The high and the low 64 bits of an unsigned product, from products of 32-bit halves; `halves` are those of b."""
    a_high, a_low, (b_high, b_low) = (a >> 32) & _LOW, a & _LOW, halves
    first = a_high * b_low + ((a_low * b_low >> 32) & _LOW)
    second = a_low * b_high + (first & _LOW)
    return a_high * b_high + ((first >> 32) & _LOW) + ((second >> 32) & _LOW), a * b


def as_bits(value: int) -> int:
    """An unsigned 64-bit number as the signed one with the same bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
