"""All conversations of one machine: who is let in, who runs, and how everybody is sent home."""

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

import numpy as np

from clearline.config import GenerationConfig
from clearline.errors import ClearlineError
from clearline.server.capacity import Capacity
from clearline.server.conversation import Conversation, Encode, Engine, Notice
from clearline.server.deadlines import Account, Fate
from clearline.server.limits import Limits
from clearline.server.scheduler import Clock, Outcome, Scheduler
from clearline.server.state import End

WARM_UP_STEPS = 12
# What those who are sent home get to take the news.
LAST_WORDS_SECONDS = 2.0


class NoRoomError(ClearlineError):
    """There is no room; try again after `retry_seconds`."""

    def __init__(self, message: str, retry_seconds: int) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Observer(Protocol):
    """Who counts: the metrics, or nobody."""

    def stepped(self, step_seconds: float, latency_seconds: float, fate: Fate) -> None: ...
    def opened(self, protocol: str) -> None: ...
    def refused(self) -> None: ...
    def closed(self, conversation: Conversation) -> None: ...


class Nobody:
    """Counts nothing."""

    def stepped(self, step_seconds: float, latency_seconds: float, fate: Fate) -> None: ...
    def opened(self, protocol: str) -> None: ...
    def refused(self) -> None: ...
    def closed(self, conversation: Conversation) -> None: ...


class Hub:
    """`open_engine` makes the state of a new conversation, `defaults` are its settings unless a client says otherwise."""

    def __init__(
        self,
        open_engine: Callable[[GenerationConfig], Engine],
        defaults: GenerationConfig,
        frame_size: int,
        sample_rate: int,
        limits: Limits,
        workers: int,
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.defaults = defaults
        self.frame_size = frame_size
        self.sample_rate = sample_rate
        self.limits = limits
        self.conversations: set[Conversation] = set()
        self.draining = False
        self.clock = clock
        self._observer: Observer = Nobody() if observer is None else observer
        self._open_engine = open_engine
        self._opening = 0
        self._has_left = asyncio.Event()
        self._numbers = itertools.count(1)
        frame_seconds = frame_size / sample_rate
        step = self._warm_up(workers)
        self.capacity = Capacity(workers, frame_seconds, limits.load, step)
        self.scheduler = Scheduler(workers, clock)

    @property
    def sessions(self) -> int:
        """Conversations that are open or being opened."""
        return len(self.conversations) + self._opening

    @property
    def room(self) -> int:
        """How many conversations may be open at once."""
        most = self.capacity.sessions
        return most if self.limits.sessions is None else min(most, self.limits.sessions)

    async def open(self, config: GenerationConfig, encode: Encode, protocol: str) -> Conversation:
        """Let a conversation in, or raise NoRoomError with the reason and when to try again."""
        if self.draining:
            raise self._refusal("the server is going down")
        if self.sessions >= self.room:
            why = f"{self.sessions} conversations are open, and this machine holds {self.room} without breaking them"
            raise self._refusal(why)
        self._opening += 1
        try:
            engine = await self._opened(config)
        finally:
            self._opening -= 1
        if self.draining:
            engine.close()
            raise self._refusal("the server is going down")
        account = Account(self.frame_size / self.sample_rate)
        conversation = Conversation(
            next(self._numbers), engine, encode, self.frame_size, account, self.limits, self.scheduler, self._stepped,
            self.clock,
        )  # fmt: skip
        self.conversations.add(conversation)
        self._observer.opened(protocol)
        return conversation

    def close(self, conversation: Conversation, why: End, message: str = "") -> None:
        """Take a conversation off the books; safe to call twice."""
        conversation.end(why, message)
        if conversation in self.conversations:
            self.conversations.discard(conversation)
            self._has_left.set()
            self._observer.closed(conversation)

    async def drain(self) -> None:
        """Let nobody in any more, give the conversations time to finish, then end them and wait until they have said so."""
        self.draining = True
        seconds = self.limits.drain_seconds
        for conversation in self.conversations:
            conversation.notify(Notice("draining", f"the server is going down in {seconds:g} seconds"))
        await self._all_left(seconds)
        for conversation in list(self.conversations):
            conversation.end(End.GOING_AWAY, End.GOING_AWAY.label)
        await self._all_left(LAST_WORDS_SECONDS)

    async def _all_left(self, seconds: float) -> None:
        """Wait until no conversation is on the books, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.conversations:
                    self._has_left.clear()
                    await self._has_left.wait()

    async def _opened(self, config: GenerationConfig) -> Engine:
        """A new engine; one that nobody waits for any more when it comes is closed at once."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)
            elif outcome.value is not None:
                outcome.value.close()

        turn = self.scheduler.submit(self.clock(), lambda: self._open_engine(config), done)
        try:
            outcome = await future
        except asyncio.CancelledError:
            if not turn.withdraw() and future.done() and not future.cancelled():
                done(future.result())  # it had just come
            raise
        if outcome.error is not None:
            raise outcome.error
        engine: Engine = outcome.value
        return engine

    def shut_down(self) -> None:
        """Stop the threads, once no conversation is wanted any more."""
        for conversation in list(self.conversations):
            self.close(conversation, End.GOING_AWAY)
        self.scheduler.close()

    def status(self) -> dict[str, object]:
        """Facts for `/health`: sessions, room for more, load, measured step."""
        return {
            "status": "draining" if self.draining else "ok",
            "sessions": self.sessions,
            "room": self.room,
            "load": round(self.capacity.load(self.sessions), 3),
            "step_ms": round(1000 * self.capacity.step_seconds, 2),
            "keeps_up": self.capacity.keeps_up,
        }

    def _refusal(self, why: str) -> NoRoomError:
        self._observer.refused()
        return NoRoomError(f"{why}; try again in {self.limits.retry_seconds} seconds", self.limits.retry_seconds)

    def _stepped(self, step_seconds: float, latency_seconds: float, fate: Fate) -> None:
        self.capacity.observe(step_seconds)
        self._observer.stepped(step_seconds, latency_seconds, fate)

    def _warm_up(self, workers: int) -> float:
        """Mean seconds of a step while every worker is busy; also compiles what is compiled at first use."""
        noise = np.random.default_rng(0).standard_normal(self.frame_size).astype(np.float32) * 0.1

        def steps(count: int) -> float:
            engine = self._open_engine(self.defaults)
            for _ in range(4):  # the first ones fill delays, and compile
                engine.step(noise)
            started = self.clock()
            for _ in range(count):
                engine.step(noise)
            seconds = (self.clock() - started) / count
            engine.close()
            return seconds

        steps(1)  # alone: compiling is not made for two threads at once
        with ThreadPoolExecutor(workers) as pool:
            return sum(pool.map(steps, [WARM_UP_STEPS] * workers)) / workers
