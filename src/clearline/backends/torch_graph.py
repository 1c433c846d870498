"""A function of tensors that stay where they are: called, or on CUDA captured once and replayed."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from clearline.backends.torch_compile import compiled
from clearline.ops import Leaf

_WARM_UPS = 2  # libraries choose and allocate during the first calls, which a capture must not see


class Graphs:
    """Runs functions that read and write fixed tensors. On the CPU and Metal a call is a call, or one of compiled code.

    A function is compiled and captured at its first call under a key. Warming up and capturing do run it or its allocations,
    so they happen with `active` (bool [B], the lanes that take part) all false: a lane that takes no part is not changed.
    """

    def __init__(self, device: torch.device, active: Tensor, compiles: bool = False) -> None:
        self._active = active
        self.captures = device.type == "cuda"
        self.compiles = compiles
        self._ready: dict[Hashable, Callable[[], Any]] = {}
        self._pool: Any = None
        self._side: Any = torch.cuda.Stream(device) if self.captures else None

    def run(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """What `function` returns; of a captured one the same tensors every time, with new values in them."""
        if not self.prepares:
            return function()
        if key not in self._ready:
            self._ready[key] = self._prepared(function)
        return self._ready[key]()

    @property
    def prepares(self) -> bool:
        """Whether the first call under a key takes its time."""
        return self.captures or self.compiles

    def beside(self, function: Callable[[], None]) -> Callable[[], None]:
        """Run `function` beside what comes next, where a device has room for both; what is returned waits for it.

        It may leave results only in fixed tensors, which nobody else touches until then. Compiled code has one stream, and few
        kernels that could be beside others.
        """
        if self.compiles or not self.captures:
            function()
            return lambda: None
        here, there = torch.cuda.current_stream(), self._side
        there.wait_stream(here)
        with torch.cuda.stream(there):
            function()
        return lambda: here.wait_stream(there)

    def _prepared(self, function: Callable[[], Any]) -> Callable[[], Any]:
        active = self._active.clone()
        self._active.zero_()
        if self.compiles:
            function = compiled(function)
        if self.captures:
            function = self._captured(function)
        self._active.copy_(active)
        return function

    def _captured(self, function: Callable[[], Any]) -> Callable[[], Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # One pool for all: they are replayed one after the other, and what one leaves for the next lies in fixed tensors.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function()
        self._pool = self._pool or graph.pool()

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay


def donate(old: dict[str, Leaf], new: dict[str, Leaf], active: Tensor) -> None:
    """Put new leaves where the old ones lie, in the lanes that take part. Rings have been written already."""
    for path, leaf in new.items():
        if isinstance(leaf, Tensor):
            here = active.reshape(-1, *([1] * (leaf.ndim - 1)))
            old[path].copy_(torch.where(here, leaf, old[path]))


def clear(state: dict[str, Leaf], lane: int) -> None:
    """Make one lane's leaves as they were before its first step."""
    for leaf in state.values():
        (leaf[lane] if isinstance(leaf, Tensor) else leaf.kv[:, lane]).zero_()
