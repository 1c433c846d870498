"""Keys and values of the past as tensors that are written in place."""

import torch
from torch import Tensor

from clearline.ops import StateSpec

_FIRST_SLOTS = 64


class TorchRing:
    """Absolute position p lives in slot p mod `size`, in tensors [B, heads, slots, D]; `size` holds the past and one step's rows.

    A row is written before it is attended to. It replaces position p - size, which has left the window of every query that
    is still to come; so a step that is thrown away (a session that takes no part) may write too.

    `in_use` slots are attended to. Memory grows by doubling up to `size` as rows come; a ring made `full` has its addresses
    for good, and is told how many slots are in use.
    """

    def __init__(self, spec: StateSpec, dtype: torch.dtype, device: torch.device, full: bool = False) -> None:
        batch, heads, capacity, dim = spec.shape
        self.rows = spec.rows
        self.size = capacity + spec.rows
        self.in_use = self.size if full else min(self.size, _FIRST_SLOTS)
        self._end = 0
        # Zeros, not NaN: fused attention multiplies the values it does not see by zero.
        self.k = torch.zeros(batch, heads, self.in_use, dim, dtype=dtype, device=device)
        self.v = torch.zeros_like(self.k)
        self._lane = torch.arange(batch, device=device)[:, None]

    def reserve(self, rows: int) -> None:
        """So many rows come: make room, as far as the size goes."""
        self._end += rows
        slots = self.in_use
        while slots < min(self._end, self.size):
            slots = min(self.size, slots * 2)
        if slots > self.k.shape[2]:
            self.k, self.v = (self._grown(x, slots) for x in (self.k, self.v))
            self.in_use = slots

    def use(self, end: int) -> int:
        """Attend to no more slots than positions below `end` need: a power of two, or all. Returns their number."""
        slots = _FIRST_SLOTS
        while slots < end:
            slots *= 2
        self.in_use = min(self.size, slots)
        return self.in_use

    def held(self, end: Tensor) -> Tensor:
        """The newest position below `end` [B] that lives in each slot in use: int64 [B, slots], negative where there is none."""
        last = (end - 1)[:, None]
        return last - (last - torch.arange(self.in_use, device=end.device)).remainder(self.size)

    def write(self, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Put rows [B, T, heads, D] into slots `at` [B, T], no two alike; returns the keys and values of the slots in use."""
        if k.shape[0] == 1:
            self.k.index_copy_(2, at[0], k.transpose(1, 2))
            self.v.index_copy_(2, at[0], v.transpose(1, 2))
        else:
            self.k[self._lane, :, at] = k
            self.v[self._lane, :, at] = v
        return self.k[:, :, : self.in_use], self.v[:, :, : self.in_use]

    @property
    def bytes(self) -> int:
        return 2 * self.k.numel() * self.k.element_size()

    @staticmethod
    def _grown(x: Tensor, slots: int) -> Tensor:
        new = x.new_zeros(*x.shape[:2], slots, x.shape[3])
        new[:, :, : x.shape[2]] = x
        return new
