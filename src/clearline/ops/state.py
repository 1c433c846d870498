"""Streaming state: a flat {path: leaf}, made once from specifications and owned by one session.

A step takes every leaf it uses exactly once and puts a new one in its place; what the new leaf is in memory (a fresh
array, or rows written into the same ring) is the backend's affair.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clearline.errors import SessionError

_FIRST_RING_SLOTS = 64


@dataclass(frozen=True)
class StateSpec:
    """One leaf: `position` int64 [B], the only clock; `carry`, a small tail of zeros; `ring`, keys and values.

    A ring's shape is [B, heads, capacity, head dimension]; it takes `rows` new rows a step.
    """

    path: str
    kind: Literal["position", "carry", "ring"]
    shape: tuple[int, ...]
    rows: int = 1


class Ring:
    """Keys and values of the past: absolute position p lives in slot p mod capacity, in arrays [B, heads, slots, D].

    After the `slots` come `rows` spare ones, where a backend may let an operation write the newest rows in place. What
    was never written is NaN in the keys, so that a stale read screams. Memory grows by doubling up to the capacity: a
    short session of a model with a long context stays small, and attention never reads slots that were never filled.
    """

    def __init__(self, spec: StateSpec, dtype: Any) -> None:
        batch, heads, self.capacity, dim = spec.shape
        self.rows = spec.rows
        self.k = np.zeros((batch, heads, 0, dim), dtype)
        self.v = np.zeros((batch, heads, 0, dim), dtype)
        self._resize(_FIRST_RING_SLOTS)

    def _resize(self, slots: int) -> None:
        self.slots = min(self.capacity, slots)
        pad = ((0, 0), (0, 0), (0, self.slots + self.rows - self.k.shape[2]), (0, 0))
        self.k = np.pad(self.k, pad, constant_values=np.nan if self.k.dtype.kind == "f" else 0)
        self.v = np.pad(self.v, pad)

    def reserve(self, end: int) -> None:
        """Make room for positions below `end`, as far as the capacity goes."""
        slots = self.slots
        while slots < min(end, self.capacity):
            slots *= 2
        if slots != self.slots:
            self._resize(slots)

    def commit(self, k: np.ndarray, v: np.ndarray, position: np.ndarray) -> None:
        """Write rows [B, T, heads, D] at positions position[b] .. position[b]+T-1."""
        rows = k.shape[1]
        self.reserve(int(position.max()) + rows)
        first = max(0, rows - self.capacity)
        for b, start in enumerate(position.tolist()):
            slots = (start + np.arange(first, rows)) % self.slots
            self.k[b, :, slots] = k[b, first:]
            self.v[b, :, slots] = v[b, first:]

    def settle(self, position: int) -> None:
        """An operation wrote this step's rows right behind the past (batch 1): those that wrapped move to their slots."""
        self.reserve(position + self.rows)
        if position + self.rows <= self.capacity:
            return
        start = min(position, self.capacity)
        for i in range(self.rows):
            slot = (position + i) % self.capacity
            if slot != start + i:
                for array in self.arrays():
                    array[:, :, slot] = array[:, :, start + i]

    def arrays(self) -> list[np.ndarray]:
        """Everything that has a row for each slot."""
        return [self.k, self.v]


# What a leaf is in memory is its backend's affair: an array, a ring, a tensor on a device.
Leaf = Any


def initial_state(specs: Iterable[StateSpec], dtype: Any, ring: Callable[[StateSpec, Any], Ring] = Ring) -> dict[str, Leaf]:
    """Fresh leaves: position 0, carries 0, rings empty, of the backend's own making if it has one."""
    leaves: dict[str, Leaf] = {}
    for spec in specs:
        if spec.path in leaves:
            raise SessionError(f"two state leaves are called {spec.path}")
        if spec.kind == "ring":
            leaves[spec.path] = ring(spec, dtype)
        else:
            leaves[spec.path] = np.zeros(spec.shape, np.int64 if spec.kind == "position" else dtype)
    return leaves


class State:
    """The leaves during one step, as the model definition sees them below a dotted path."""

    def __init__(self, old: dict[str, Any], new: dict[str, Any] | None = None, path: str = "") -> None:
        self.old = old
        self.new: dict[str, Any] = {} if new is None else new
        self._path = path

    def at(self, path: str) -> "State":
        return State(self.old, self.new, f"{self._path}{path}.")

    def take(self, name: str) -> Any:
        """Consume a leaf: a second take of the same leaf in one step is an error in the model definition."""
        path = self._path + name
        if path not in self.old:
            raise SessionError(f"state leaf {path} does not exist or was already consumed in this step")
        return self.old.pop(path)

    def put(self, name: str, leaf: Any) -> None:
        self.new[self._path + name] = leaf
