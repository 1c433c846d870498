"""A function of tensors that stay where they are: called, or on CUDA captured once and replayed."""

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from clearline.backends.torch_compile import compiled
from clearline.ops import Leaf

_WARM_UPS = 2  # libraries choose and allocate during the first calls, which a capture must not see
_ALONE = threading.Lock()  # PyTorch captures one graph at a time in a process


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
        # Of this device: PyTorch's own stream for captures is that of the first device it ever captured on.
        self._stream: Any = torch.cuda.Stream(device) if self.captures else None
        self._side: Any = torch.cuda.Stream(device) if self.captures else None
        self._join: Callable[[], None] | None = None

    def run(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """What `function` returns; of a captured one the same tensors every time, with new values in them.

        Those tensors are whatever any graph computes with next: who wants them after another `run` copies them before.
        """
        if not self.prepares:
            return function()
        if key not in self._ready:
            with _ALONE:
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

        def join() -> None:
            self._join = None
            here.wait_stream(there)

        there.wait_stream(here)
        self._join = join
        with torch.cuda.stream(there):
            function()
        return join

    def _prepared(self, function: Callable[[], Any]) -> Callable[[], Any]:
        active = self._active.clone()
        self._active.zero_()
        try:
            if self.compiles:
                function = compiled(function)
            return self._captured(function) if self.captures else function
        finally:
            self._active.copy_(active)

    def _captured(self, function: Callable[[], Any]) -> Callable[[], Any]:
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                self._joined(function)
        here.wait_stream(self._stream)
        # One pool for all: they are replayed one after the other, and what one leaves for the next lies in fixed tensors.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = self._joined(function)
        self._pool = self._pool or graph.pool()

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay

    def _joined(self, function: Callable[[], Any]) -> Any:
        """`function`; what it left running beside it when it failed is waited for, or a capture could not end."""
        try:
            return function()
        finally:
            if self._join is not None:
                self._join()


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
