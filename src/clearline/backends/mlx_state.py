"""The ring of keys and values as MLX arrays."""

import mlx.core as mx

from clearline.ops import StateSpec

_FIRST_SLOTS = 64


class MlxRing:
    """Keys and values [B, heads, slots, D], position p in slot p mod slots.

    At its full size it holds the window of the past and the rows of a step, which the step writes over the oldest. Memory
    grows by doubling up to there, so a program is compiled for a handful of sizes and a short session stays small.
    """

    def __init__(self, spec: StateSpec, float_: mx.Dtype, fill: float) -> None:
        """`fill`: what the keys hold before they are written."""
        batch, heads, capacity, dim = spec.shape
        self.rows = spec.rows
        # A multiple of the rows of a step: they never wrap in their middle.
        self.full = -(-(capacity + spec.rows) // spec.rows) * spec.rows
        self.end = 0  # positions below this may have been written
        self._fill = fill
        self.k = mx.zeros((batch, heads, 0, dim), float_)
        self.v = mx.zeros((batch, heads, 0, dim), float_)
        self.reserve(1)

    @property
    def slots(self) -> int:
        return self.k.shape[2]

    def reserve(self, end: int) -> None:
        """Make room for positions below `end`, as far as the full size goes."""
        slots = self.slots or min(_FIRST_SLOTS, self.full)
        while slots < min(end, self.full):
            slots = min(2 * slots, self.full)
        if slots != self.slots:
            pad = [(0, 0), (0, 0), (0, slots - self.slots), (0, 0)]
            fill = mx.array(self._fill, self.k.dtype)
            self.k, self.v = mx.pad(self.k, pad, constant_values=fill), mx.pad(self.v, pad)
        self.end = max(self.end, end)
