"""Keys and values of the past as a tensor that is written in place."""

import torch
from torch import Tensor
from torch.nn import functional

from clearline.ops import StateSpec

_SLOTS = [64 << n for n in range(20)]
_COARSE_SLOTS = 1024


class TorchRing:
    """Absolute position p lives in slot p mod `size`, of keys and of values [2, B, heads, slots, D]; `size` holds the past and one
    step's rows.

    A row is written before it is attended to. It replaces position p - size, which has left the window of every query that
    is still to come; so a step that is thrown away (a session that takes no part) may write too.

    `in_use` slots are attended to. Memory grows by doubling up to `size` as rows come; a ring made `full` has its addresses
    for good, and is told how many slots are in use: one of its `lengths`, which are powers of two and all, or two where
    `coarse`, since compiling takes its time for each.
    """

    def __init__(self, spec: StateSpec, dtype: torch.dtype, device: torch.device, full: bool = False, coarse: bool = False) -> None:
        batch, heads, capacity, dim = spec.shape
        self.rows = spec.rows
        self.size = capacity + spec.rows
        self.in_use = self.size if full else min(self.size, _SLOTS[0])
        self.lengths = [n for n in ([_COARSE_SLOTS] if coarse else _SLOTS) if n < self.size] + [self.size]
        self._end = 0
        # Zeros, not NaN: fused attention multiplies the values it does not see by zero.
        self.kv = torch.zeros(2, batch, heads, self.in_use, dim, dtype=dtype, device=device)
        self._lane = torch.arange(batch, device=device)[:, None]

    @property
    def k(self) -> Tensor:
        """[B, heads, slots, D]"""
        return self.kv[0]

    @property
    def v(self) -> Tensor:
        """[B, heads, slots, D]"""
        return self.kv[1]

    def reserve(self, rows: int) -> None:
        """So many rows come: make room, as far as the size goes."""
        self._end += rows
        slots = self.in_use
        while slots < min(self._end, self.size):
            slots = min(self.size, slots * 2)
        if slots > self.kv.shape[3]:
            self.kv = functional.pad(self.kv, (0, 0, 0, slots - self.kv.shape[3]))
            self.in_use = slots

    def use(self, end: int) -> int:
        """Attend to no more slots than positions below `end` need. Returns their number."""
        self.in_use = next((slots for slots in self.lengths if slots >= end), self.size)
        return self.in_use

    def held(self, end: Tensor) -> Tensor:
        """The newest position below `end` [B] that lives in each slot in use: int64 [B, slots], negative where there is none."""
        last = (end - 1)[:, None]
        return last - (last - torch.arange(self.in_use, device=end.device)).remainder(self.size)

    def write(self, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Put rows [B, T, heads, D] into slots `at` [B, T], no two alike; returns the keys and values of the slots in use."""
        if k.shape[0] == 1 and k.device.type != "mps":  # where one row's index_copy_ is slow, or missing
            self.kv.index_copy_(3, at[0], torch.stack([k, v]).transpose(2, 3))
        else:
            self.kv[:, self._lane, :, at] = torch.stack([k, v], 2)
        return self._in_use()

    def write_anew(self, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """`write` of one row [B, 1, heads, D], over all slots: unlike a row put in its place, that is fused with what reads it."""
        here = torch.arange(self.size, device=at.device)[:, None] == at[:, None, :, None]
        self.kv.copy_(torch.where(here, torch.stack([k, v]).transpose(2, 3), self.kv))
        return self._in_use()

    def _in_use(self) -> tuple[Tensor, Tensor]:
        return self.k[:, :, : self.in_use], self.v[:, :, : self.in_use]

    @property
    def bytes(self) -> int:
        return self.kv.nbytes

    @property
    def few(self) -> bool:
        """Whether one row comes at a time, and the slots can be gone through one by one, as in a depformer."""
        return self.rows == 1 and self.size <= 16
