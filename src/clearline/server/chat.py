"""A conversation on this machine, without a network: ears and a mouth instead of sockets, over the same hub."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clearline.config import GenerationConfig
from clearline.errors import SessionError
from clearline.server.conversation import Conversation, Ended, Reply
from clearline.server.hub import Hub
from clearline.server.scheduler import Clock
from clearline.server.state import End


class Ears(Protocol):
    """Where sound comes from."""

    async def frame(self) -> np.ndarray | None:
        """The next 80 ms, float32 [frame_size], when they have been heard; None when there will be no more."""

    def replied(self, text: str) -> None:
        """The model has answered one frame, with this text."""


class Mouth(Protocol):
    """Where sound goes."""

    def play(self, pcm: np.ndarray) -> None:
        """The reply to the next frame: float32 [frame_size]."""


@dataclass(frozen=True)
class Moment:
    """What one frame brought, to be shown: levels in dB below full scale, lag in seconds from a frame heard to its reply."""

    text: str
    heard_db: float
    said_db: float
    lag: float
    missed: int
    underruns: int


def level(pcm: np.ndarray) -> float:
    """Loudness in dB relative to full scale, -96 for silence."""
    return float(20 * np.log10(max(np.sqrt(np.mean(np.square(pcm, dtype=np.float64))), 10 ** (-96 / 20)))) if pcm.size else -96.0


async def hold(hub: Hub, config: GenerationConfig, ears: Ears, mouth: Mouth, show: Callable[[Moment], None]) -> None:
    """Talk until the ears say it is over. Raises SessionError when the model fails."""
    conversation = await hub.open(hub.default, config, lambda pcm: pcm.astype(np.float32).tobytes(), "chat")
    heard: deque[tuple[float, float]] = deque()  # when each frame not yet answered was heard, and how loud it was
    listening = asyncio.create_task(_listen(ears, conversation, heard, hub.clock))
    try:
        while not isinstance(news := await conversation.news(), Ended):
            if isinstance(news, Reply):
                pcm = np.frombuffer(news.sound, np.float32) if news.sound else np.zeros(hub.frame_size, np.float32)
                mouth.play(pcm)
                ears.replied(news.text)
                when, heard_db = heard.popleft()
                account = conversation.account
                show(Moment(news.text, heard_db, level(pcm), hub.clock() - when, account.missed, account.underruns))
    finally:
        listening.cancel()
        hub.close(conversation, End.LEFT)
    if news.why is not End.FINISHED:
        raise SessionError(news.message or news.why.label)


async def _listen(ears: Ears, conversation: Conversation, heard: deque[tuple[float, float]], clock: Clock) -> None:
    try:
        while (frame := await ears.frame()) is not None:
            heard.append((clock(), level(frame)))
            await conversation.hear(frame)
        conversation.end_input()
    except Exception as error:  # a device that was unplugged ends the conversation, with its reason
        conversation.end(End.FAILED, str(error))


class RecordingEars:
    """A recording [n] in real time, then silence: `tail` seconds, or until the model has said nothing for `quiet` seconds."""

    def __init__(
        self, pcm: np.ndarray, frame_size: int, frame_seconds: float, tail: float | None, quiet: float = 2.0, limit: float = 15.0
    ) -> None:
        self._frames = np.pad(pcm, (0, -len(pcm) % frame_size)).reshape(-1, frame_size)
        self._silence = np.zeros(frame_size, np.float32)
        self._seconds = frame_seconds
        self._most = len(self._frames) + int(np.ceil((limit if tail is None else tail) / frame_seconds))
        self._patience = None if tail is not None else quiet / frame_seconds
        self._next = 0
        self._quiet = 0
        self._started = 0.0

    async def frame(self) -> np.ndarray | None:
        # Silence that nobody answered counts only after the recording.
        bored = self._patience is not None and self._quiet >= self._patience
        if self._next >= self._most or (bored and self._next >= len(self._frames) + int(self._patience or 0)):
            return None
        clock = asyncio.get_running_loop().time
        self._started = self._started or clock()
        self._next += 1
        await asyncio.sleep(max(0.0, self._started + self._next * self._seconds - clock()))
        return self._frames[self._next - 1] if self._next <= len(self._frames) else self._silence

    def replied(self, text: str) -> None:
        self._quiet = 0 if text else self._quiet + 1


class Recorder:
    """Keeps the reply, in time with what was heard; passes it on to the mouth `then`, if there is one."""

    def __init__(self, then: Mouth | None = None) -> None:
        self.then = then
        self._frames: list[np.ndarray] = []

    def play(self, pcm: np.ndarray) -> None:
        self._frames.append(pcm)
        if self.then is not None:
            self.then.play(pcm)

    def pcm(self) -> np.ndarray:
        """All of it, float32 [n]."""
        return np.concatenate(self._frames) if self._frames else np.zeros(0, np.float32)
