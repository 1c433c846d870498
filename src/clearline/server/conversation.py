"""One conversation: sound in, replies out, with bounded queues between the client and the scheduler."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from clearline.errors import SessionError
from clearline.generate import Frame
from clearline.server.deadlines import Account, Fate
from clearline.server.limits import Limits
from clearline.server.scheduler import Clock, Outcome, Scheduler, Turn
from clearline.server.state import End, Lifecycle, State

Encode = Callable[[np.ndarray], bytes]


class Engine(Protocol):
    """The part of `clearline.Session` that is used."""

    def step(self, pcm: np.ndarray, /) -> Frame: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Reply:
    """What frame number `frame` of the user brought: sound as the protocol sends it (empty: none), and what it adds to the text."""

    frame: int
    sound: bytes
    text: str


@dataclass(frozen=True)
class Notice:
    """Something the client should know while the conversation goes on."""

    code: str
    message: str


@dataclass(frozen=True)
class Ended:
    """The last thing a conversation says; `message` is empty when nothing went wrong."""

    why: End
    message: str


class Conversation:
    """Call everything from the event loop. The model's steps run on the scheduler's threads, one at a time."""

    def __init__(
        self,
        number: int,
        engine: Engine,
        encode: Encode,
        frame_size: int,
        account: Account,
        limits: Limits,
        scheduler: Scheduler,
        on_step: Callable[[float, float, Fate], None],
        clock: Clock,
    ) -> None:
        self.number = number
        self.account = account
        self.ended: Ended | None = None
        self._engine: Engine | None = engine
        self._encode = encode
        self._frame_size = frame_size
        self._limits = limits
        self._scheduler = scheduler
        self._on_step = on_step
        self._clock = clock
        self._life = Lifecycle()
        self._rest = np.zeros(0, np.float32)
        self._heard: deque[tuple[float, np.ndarray]] = deque()
        self._replies: deque[Reply] = deque()
        self._notices: deque[Notice] = deque()
        self._turn: Turn | None = None  # the step that waits for a thread or runs on one
        self._unblocked = 0.0
        self._may_hear = asyncio.Event()
        self._has_news = asyncio.Event()
        self._life.to(State.LIVE)

    @property
    def state(self) -> State:
        return self._life.state

    @property
    def waiting(self) -> int:
        """Frames heard and not yet answered."""
        return len(self._heard) + (self._turn is not None)

    async def hear(self, pcm: np.ndarray) -> None:
        """Take sound, float32 [n] at the codec's rate; waits while as much as may wait is waiting.

        What comes after the end of the conversation, or after `end_input`, is dropped. Raises SessionError for samples
        that are not numbers.
        """
        if not np.isfinite(pcm).all():
            raise SessionError("the sound contains NaN or infinite samples")
        if self.state is not State.LIVE:
            return
        whole = np.concatenate([self._rest, pcm]) if self._rest.size else pcm
        count = len(whole) // self._frame_size
        self._rest = whole[count * self._frame_size :].copy()
        for frame in whole[: count * self._frame_size].reshape(-1, self._frame_size):
            while len(self._heard) >= self._limits.heard_frames and self.state is State.LIVE:
                self._may_hear.clear()
                await self._may_hear.wait()
            if self.state is not State.LIVE:
                return
            self._heard.append((self._clock(), frame))
            self._advance()

    def end_input(self) -> None:
        """The client will say no more: a begun frame is filled up with silence, and what was heard is still answered."""
        if self.state is not State.LIVE:
            return
        if self._rest.size:
            self._heard.append((self._clock(), np.pad(self._rest, (0, self._frame_size - self._rest.size))))
        self._life.to(State.FINISHING)
        self._advance()

    def notify(self, notice: Notice) -> None:
        """Pass a notice to the client, before the replies that wait."""
        self._notices.append(notice)
        self._has_news.set()

    async def news(self) -> Reply | Notice | Ended:
        """The next thing to tell the client; after `Ended` nothing comes."""
        while not (self._notices or self._replies or self.ended):
            self._has_news.clear()
            await self._has_news.wait()
        if self._notices:
            return self._notices.popleft()
        if self._replies:
            if len(self._replies) == self._limits.reply_frames:
                self._unblocked = self._clock()
            reply = self._replies.popleft()
            self._advance()
            return reply
        assert self.ended is not None
        return self.ended

    def end(self, why: End, message: str = "") -> None:
        """Close, and release the model's state as soon as no step uses it. A second end changes nothing."""
        if self.state is State.CLOSED:
            return
        self._life.to(State.CLOSED)
        self.ended = Ended(why, message)
        self._heard.clear()
        self._rest = np.zeros(0, np.float32)
        if self._turn is None or self._turn.withdraw():
            self._turn = None
            self._release()
        self._may_hear.set()
        self._has_news.set()

    def _release(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _advance(self) -> None:
        """Hand the next frame to the scheduler if there is one, the last is done, and its reply will find room."""
        if self.state is State.CLOSED or self._turn is not None or len(self._replies) >= self._limits.reply_frames:
            return
        if not self._heard:
            if self.state is State.FINISHING:
                self.end(End.FINISHED)
            return
        arrived, pcm = self._heard.popleft()
        self._may_hear.set()
        # A frame that only waited for a slow reader is not late by the machine's fault.
        ready = max(arrived, self._unblocked)
        self._turn = self._scheduler.submit(self.account.due(ready), partial(self._step, pcm), partial(self._stepped, ready))

    def _step(self, pcm: np.ndarray) -> Reply:
        """On a thread of the scheduler."""
        engine = self._engine
        assert engine is not None  # it is released only while no step runs
        frame = engine.step(pcm)
        return Reply(self.account.frames, b"" if frame.pcm is None else self._encode(frame.pcm), frame.text)

    def _stepped(self, ready: float, outcome: Outcome) -> None:
        self._turn = None
        if self.state is State.CLOSED:
            self._release()
            return
        if outcome.error is not None:
            self.end(End.FAILED, str(outcome.error) or type(outcome.error).__name__)
            return
        reply: Reply = outcome.value
        now = self._clock()
        fate = self.account.answered(ready, now, outcome.seconds, bool(reply.sound))
        self._on_step(outcome.seconds, now - ready, fate)
        self._replies.append(reply)
        self._has_news.set()
        self._advance()
