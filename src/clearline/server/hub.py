"""All conversations of one machine: who is let in, who runs, and how everybody is sent home."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from clearline.config import GenerationConfig
from clearline.errors import ClearlineError, ConfigError
from clearline.server.capacity import Capacity, Cost
from clearline.server.conversation import Conversation, Encode, Engine, Notice
from clearline.server.deadlines import Account, Fate
from clearline.server.limits import Limits
from clearline.server.offer import Offer, by_name
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

    def stepped(self, model: str, step_seconds: float, latency_seconds: float, fate: Fate) -> None: ...
    def opened(self, protocol: str) -> None: ...
    def refused(self) -> None: ...
    def closed(self, conversation: Conversation) -> None: ...


class Nobody:
    """Counts nothing."""

    def stepped(self, model: str, step_seconds: float, latency_seconds: float, fate: Fate) -> None: ...
    def opened(self, protocol: str) -> None: ...
    def refused(self) -> None: ...
    def closed(self, conversation: Conversation) -> None: ...


class Hub:
    """`offers`: the models that conversations may be held with, the default first. They share the workers."""

    def __init__(
        self,
        offers: Iterable[Offer],
        limits: Limits,
        workers: int,
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.offers = by_name(offers)
        self.default = next(iter(self.offers.values()))
        self.frame_size = self.default.frame_size
        self.sample_rate = self.default.sample_rate
        self.limits = limits
        self.conversations: dict[Conversation, Offer] = {}
        self.draining = False
        self.clock = clock
        self._observer: Observer = Nobody() if observer is None else observer
        self._opening: Counter[str] = Counter()
        self._has_left = asyncio.Event()
        self._numbers = itertools.count(1)
        frame_seconds = self.frame_size / self.sample_rate
        self.costs = {
            name: Cost(self._warm_up(offer, workers), frame_seconds, 1 if offer.batch is None else offer.batch.count)
            for name, offer in self.offers.items()
        }
        # The threads of a batch wait for one step that they share.
        self.capacity = Capacity(1 if self.default.batch is not None else workers, limits.load)
        self.scheduler = Scheduler(workers, clock)

    def offer(self, name: str | None) -> Offer:
        """The model of this name, or the default. Raises ConfigError for a name that is not offered."""
        if name is None:
            return self.default
        if name not in self.offers:
            raise ConfigError(f"there is no model {name[:40]!r} here; this server has {', '.join(map(repr, self.offers))}")
        return self.offers[name]

    @property
    def sessions(self) -> int:
        """Conversations that are open or being opened."""
        return len(self.conversations) + self._opening.total()

    def sessions_with(self, name: str) -> int:
        """Those with one model."""
        return sum(offer.name == name for offer in self.conversations.values()) + self._opening[name]

    @property
    def load(self) -> float:
        """Share of the workers' time that all conversations together take."""
        return self.capacity.load(self._taken())

    def room(self, name: str | None = None) -> int:
        """How many conversations may be open at once, if all that are still to come are with this model."""
        most = self.sessions + self.capacity.more(self.costs[self.offer(name).name], self._taken())
        return most if self.limits.sessions is None else min(most, self.limits.sessions)

    def _taken(self) -> list[Cost]:
        names = [offer.name for offer in self.conversations.values()]
        return [self.costs[name] for name in (*names, *self._opening.elements())]

    async def open(self, offer: Offer, config: GenerationConfig, encode: Encode, protocol: str) -> Conversation:
        """Let a conversation in, or raise NoRoomError with the reason and when to try again."""
        if self.draining:
            raise self._refusal("the server is going down")
        room = self.room(offer.name)
        if self.sessions >= room:
            which = f" with {offer.name}" if len(self.offers) > 1 else ""
            why = f"{self.sessions} conversations are open, and this machine holds {room}{which} without breaking them"
            raise self._refusal(why)
        self._opening[offer.name] += 1
        try:
            engine = await self._opened(offer, config)
        finally:
            self._opening[offer.name] -= 1
        if self.draining:
            engine.close()
            raise self._refusal("the server is going down")
        account = Account(self.frame_size / self.sample_rate)
        conversation = Conversation(
            next(self._numbers), engine, encode, self.frame_size, account, self.limits, self.scheduler,
            partial(self._stepped, offer), self.clock,
        )  # fmt: skip
        self.conversations[conversation] = offer
        self._observer.opened(protocol)
        return conversation

    def close(self, conversation: Conversation, why: End, message: str = "") -> None:
        """Take a conversation off the books; safe to call twice."""
        conversation.end(why, message)
        if conversation in self.conversations:
            del self.conversations[conversation]
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

    async def _opened(self, offer: Offer, config: GenerationConfig) -> Engine:
        """A new engine; one that nobody waits for any more when it comes is closed at once."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)
            elif outcome.value is not None:
                outcome.value.close()

        turn = self.scheduler.submit(self.clock(), lambda: offer.open_engine(config), done)
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

    def status(self) -> dict[str, Any]:
        """Facts for `/health`: sessions, room for more, load, measured step; of the default model, and of each."""
        figures = {name: self._figures(name) for name in self.offers}
        return {
            "status": "draining" if self.draining else "ok",
            "load": round(self.load, 3),
            **figures[self.default.name],
            "sessions": self.sessions,
            "models": figures,
        }

    def _figures(self, name: str) -> dict[str, object]:
        cost = self.costs[name]
        return {
            "sessions": self.sessions_with(name),
            "room": self.room(name),
            "step_ms": round(1000 * cost.step_seconds, 2),
            "keeps_up": cost.keeps_up,
        }

    def _refusal(self, why: str) -> NoRoomError:
        self._observer.refused()
        return NoRoomError(f"{why}; try again in {self.limits.retry_seconds} seconds", self.limits.retry_seconds)

    def _stepped(self, offer: Offer, step_seconds: float, latency_seconds: float, fate: Fate) -> None:
        # In a batch a conversation may wait for the step before its own.
        batch = offer.batch
        self.costs[offer.name].observe(step_seconds if batch is None else batch.step_seconds)
        self._observer.stepped(offer.name, step_seconds if batch is None else batch.last_seconds, latency_seconds, fate)

    def _warm_up(self, offer: Offer, workers: int) -> float:
        """Mean seconds of a step while every worker is busy, of a batch its own; also compiles what is compiled at first use."""
        noise = np.random.default_rng(0).standard_normal(offer.frame_size).astype(np.float32) * 0.1

        def steps(count: int) -> float:
            engine = offer.open_engine(offer.defaults)
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
            mean = sum(pool.map(steps, [WARM_UP_STEPS] * workers)) / workers
        return mean if offer.batch is None else offer.batch.step_seconds
