"""Work on a few threads, the most urgent first. Everything but the work itself happens on the event loop: no locks."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a piece of work returned or raised, and how many seconds it took."""

    value: Any
    error: Exception | None
    seconds: float


Done = Callable[[Outcome], None]


class Scheduler:
    """Earliest deadline first. A step is never interrupted, so a frame waits for at most one step of a less urgent one."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clearline-step")
        self._waiting: list[tuple[float, int, Callable[[], Any], Done]] = []
        self._order = itertools.count()  # equal deadlines: first come, first served
        self._busy = 0

    def submit(self, due: float, work: Callable[[], Any], done: Done) -> None:
        """Run `work` on a thread when its turn comes, then `done` on the event loop."""
        heapq.heappush(self._waiting, (due, next(self._order), work, done))
        self._dispatch()

    async def run(self, due: float, work: Callable[[], Any]) -> Any:
        """The same, awaited: returns what `work` returns, raises what it raises."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.submit(due, work, lambda outcome: None if future.done() else future.set_result(outcome))
        outcome = await future
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def close(self) -> None:
        """Wait for the work that has begun; what still waits is dropped."""
        self._waiting.clear()
        self._pool.shutdown()

    def _dispatch(self) -> None:
        while self._waiting and self._busy < self.workers:
            _, _, work, done = heapq.heappop(self._waiting)
            self._busy += 1
            future = asyncio.get_running_loop().run_in_executor(self._pool, _timed, work)
            future.add_done_callback(lambda finished, done=done: self._finished(finished, done))  # type: ignore[misc]

    def _finished(self, future: "asyncio.Future[Outcome]", done: Done) -> None:
        self._busy -= 1
        if future.cancelled():
            return
        self._dispatch()  # before the result is looked at: the machine does not wait for the paperwork
        done(future.result())


def _timed(work: Callable[[], Any]) -> Outcome:
    started = time.perf_counter()
    try:
        value, error = work(), None
    except Exception as raised:
        value, error = None, raised
    return Outcome(value, error, time.perf_counter() - started)
