"""What every protocol translates between: messages of a WebSocket, and a conversation."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clearline.config import GenerationConfig
from clearline.errors import ClearlineError
from clearline.server.conversation import Ended, Notice, Reply

# One message of a WebSocket: text or bytes.
Message = str | bytes


class ProtocolError(ClearlineError):
    """A client sent what the protocol does not know."""


@dataclass(frozen=True)
class Heard:
    """Sound of the client: float32 [n] at the codec's rate."""

    pcm: np.ndarray


@dataclass(frozen=True)
class EndOfInput:
    """The client will say no more."""


@dataclass(frozen=True)
class Start:
    """The client says what it wants, by the names of `settings`; before that its conversation cannot begin."""

    query: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What the protocol itself says to a message, whatever the model is doing."""

    messages: "list[Message]"


# What a message means; None: nothing.
Meaning = Heard | EndOfInput | Start | Answer | None


@dataclass(frozen=True)
class Welcome:
    """What a client is told when it is let in."""

    session: int
    model: str
    config: GenerationConfig
    preset: str
    sample_rate: int
    frame_size: int


class Protocol(typing.Protocol):
    """One instance per connection. `parse` runs on a thread of its own, `encode` on a thread of the scheduler.

    waits: whether the conversation begins with the client's `Start`; else it begins with the connection.
    """

    name: str
    waits: bool

    def model(self, query: Mapping[str, str]) -> str | None:
        """The name of the model that the address asks for; None: the server's default."""

    def settings(self, query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
        """What else it asks for. Raises ConfigError."""

    def welcome(self, facts: Welcome) -> list[Message]:
        """First messages to a client that was let in."""

    def parse(self, message: Message) -> Meaning:
        """What a client's message means. Raises ProtocolError."""

    def encode(self, pcm: np.ndarray) -> bytes:
        """A frame of the reply, float32 [frame_size], as `reply` will send it."""

    def reply(self, reply: Reply) -> list[Message]:
        """Messages for one reply."""

    def report(self, figures: Mapping[str, float]) -> list[Message]:
        """Messages for the state of the line, once a second."""

    def notice(self, notice: Notice) -> list[Message]:
        """Messages for a notice."""

    def farewell(self, ended: Ended, retry_seconds: int | None = None) -> list[Message]:
        """Last messages, also to a client that was not let in."""
