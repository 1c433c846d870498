"""Kyutai's protocol, as `moshi.server` and moshi-backend speak it: one byte of type, then Ogg Opus or text.

0 handshake, 1 sound (Ogg Opus, 24 kHz, mono), 2 text, 3 control, 4 metadata, 5 error, 6 ping. A client sends sound; its
other types are allowed and mean nothing in a full-duplex conversation, as in Kyutai's own servers.
"""

from collections.abc import Mapping

import numpy as np
import sphn

from clearline.config import GenerationConfig
from clearline.errors import ConfigError
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols.base import Heard, Meaning, Message, ProtocolError, Welcome
from clearline.server.settings import kyutai_settings
from clearline.server.state import End

HANDSHAKE, SOUND, TEXT, CONTROL, METADATA, ERROR, PING = range(7)
_NO_VERSION = bytes(8)  # protocol version and model version, two u32, both always 0
SAMPLE_RATE = 24_000
# 80 ms of Opus are at most 5 kB; a few kB of tiny packets can already hold minutes of sound.
MAX_MESSAGE_BYTES = 8192


class KyutaiProtocol:
    name = "kyutai"
    waits = False

    def __init__(self, sample_rate: int) -> None:
        if sample_rate != SAMPLE_RATE:
            raise ConfigError(f"Kyutai's protocol sends sound at {SAMPLE_RATE} Hz; this model's codec works at {sample_rate} Hz")
        self._reader = sphn.OpusStreamReader(SAMPLE_RATE)
        self._writer = sphn.OpusStreamWriter(SAMPLE_RATE)

    def model(self, query: Mapping[str, str]) -> str | None:
        return None  # Kyutai's servers have one

    def settings(self, query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
        return kyutai_settings(query, base)

    def welcome(self, facts: Welcome) -> list[Message]:
        return [bytes([HANDSHAKE]) + _NO_VERSION]

    def parse(self, message: Message) -> Meaning:
        if isinstance(message, str):
            raise ProtocolError("messages are binary here: one byte of type, then the content")
        if len(message) > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes; this has {len(message)}")
        if not message:
            return None  # Kyutai's server warns and goes on
        if message[0] == SOUND:
            try:
                pcm = self._reader.append_bytes(message[1:])
            except ValueError as error:
                raise ProtocolError(f"this is not Ogg Opus: {error}") from error
            return Heard(pcm) if pcm.size else None
        return None  # "Messages with an unknown message type should be discarded", says rust/protocol.md

    def encode(self, pcm: np.ndarray) -> bytes:
        encoded: bytes = self._writer.append_pcm(np.clip(pcm, -1.0, 1.0))
        return encoded

    def reply(self, reply: Reply) -> list[Message]:
        out: list[Message] = []
        if reply.sound:
            out.append(bytes([SOUND]) + reply.sound)
        if reply.text:
            out.append(bytes([TEXT]) + reply.text.encode())
        return out

    def report(self, figures: Mapping[str, float]) -> list[Message]:
        return []  # the published client warns about every type but sound and text

    def notice(self, notice: Notice) -> list[Message]:
        return []

    def farewell(self, ended: Ended, retry_seconds: int | None = None) -> list[Message]:
        if ended.why is End.FINISHED:
            return []
        return [bytes([ERROR]) + (ended.message or ended.why.label).encode()]
