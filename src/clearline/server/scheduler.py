"""Work on a few threads, the most urgent first. Everything but the work itself happens on the event loop: no locks."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

# Seconds of one monotonic clock; a test gives its own.
Clock = Callable[[], float]


@dataclass(frozen=True)
class Outcome:
    """What a piece of work returned or raised, and how many seconds it took."""

    value: Any
    error: BaseException | None
    seconds: float


Done = Callable[[Outcome], None]


@dataclass(order=True)
class Turn:
    """A piece of work in the queue; `order` decides between equal deadlines: first come, first served."""

    due: float
    order: int
    work: Callable[[], Any] | None = field(compare=False)
    done: Done = field(compare=False)
    outcome: Outcome | None = field(default=None, compare=False)

    def withdraw(self) -> bool:
        """Take the work back; False when it has begun, and `done` will be called."""
        waits, self.work = self.work is not None, None
        return waits


class Scheduler:
    """Earliest deadline first. A step is never interrupted, so a frame waits for at most one step of a less urgent one."""

    def __init__(self, workers: int, clock: Clock = time.monotonic) -> None:
        self.workers = workers
        self._clock = clock
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clearline-step")
        self._waiting: list[Turn] = []
        self._running: dict[int, Turn] = {}
        self._order = itertools.count()

    def submit(self, due: float, work: Callable[[], Any], done: Done) -> Turn:
        """Run `work` on a thread when its turn comes, then `done` on the event loop."""
        turn = Turn(due, next(self._order), work, done)
        heapq.heappush(self._waiting, turn)
        self._dispatch()
        return turn

    def close(self) -> None:
        """Wait for the work that has begun and deliver what it brought; what still waits is dropped.

        Needs no event loop: at the end of a program there may be none that would still call `done`.
        """
        self._waiting.clear()
        self._pool.shutdown()
        for order in list(self._running):
            self._finished(order)

    def _dispatch(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            turn = heapq.heappop(self._waiting)
            work, turn.work = turn.work, None
            if work is None:
                continue  # withdrawn
            self._running[turn.order] = turn
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._run, turn, work)
            future.add_done_callback(lambda _, order=turn.order: self._finished(order))  # type: ignore[misc]

    def _run(self, turn: Turn, work: Callable[[], Any]) -> None:
        """On a thread."""
        started = self._clock()
        try:
            value, error = work(), None
        except BaseException as raised:  # a panic in Rust is no Exception, and must not leave its conversation waiting
            value, error = None, raised
        turn.outcome = Outcome(value, error, self._clock() - started)

    def _finished(self, order: int) -> None:
        turn = self._running.pop(order, None)
        if turn is None or turn.outcome is None:
            return  # delivered by `close`, or never begun
        self._dispatch()  # before the result is looked at: the machine does not wait for the paperwork
        turn.done(turn.outcome)
