"""An event loop whose clock is a number: waiting takes no time, and every run gives the same times and the same order.

Work on threads runs at once, in the loop's own thread; what it says it took (`VirtualLoop.work`) passes on the clock before
its result comes. So five conversations of ten minutes are held in a second, however busy the machine is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._spent = 0.0
        self._working = False
        self._waits = self._selector.select
        self._selector.select = self._select

    def time(self) -> float:
        """Seconds; also the `clock` to give to a hub."""
        return self._now + self._spent

    def work(self, seconds: float) -> None:
        """Called by work on a thread: so much time has passed in it."""
        if self._working:
            self._spent += seconds
        else:
            self._now += seconds

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        future = self.create_future()
        self._working = True
        try:
            settle, outcome = future.set_result, function(*arguments)
        except BaseException as raised:
            settle, outcome = future.set_exception, raised
        seconds, self._spent, self._working = self._spent, 0.0, False
        if seconds:
            self.call_later(seconds, lambda: future.done() or settle(outcome))
        else:
            settle(outcome)
        return future

    def _select(self, timeout: float | None) -> list[Any]:
        """What is ready; if nothing is, the time of the next timer has come."""
        ready = self._waits(0)
        if not ready and timeout:
            self._now += timeout
        return ready


def run_virtual(scenario: Callable[[VirtualLoop], Coroutine[Any, Any, Any]], limit: float = 3600.0) -> Any:
    """Run `await scenario(loop)`; fails after `limit` virtual seconds."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(asyncio.wait_for(scenario(loop), limit))
