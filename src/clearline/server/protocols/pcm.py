"""The plain protocol: 16-bit samples as binary messages, everything else as JSON. Described in docs/protocols.md."""

import json
from collections.abc import Mapping

import numpy as np

from clearline.config import GenerationConfig
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols.base import EndOfInput, Heard, Meaning, Message, ProtocolError, Welcome
from clearline.server.protocols.objects import read_object, shown
from clearline.server.protocols.samples import Linear16
from clearline.server.settings import MODEL, settings
from clearline.server.state import End


class PcmProtocol:
    name = "pcm"
    waits = False

    def __init__(self) -> None:
        self._samples = Linear16()
        self._has_spoken = False

    def model(self, query: Mapping[str, str]) -> str | None:
        return query.get(MODEL)

    def settings(self, query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
        return settings(query, base)

    def welcome(self, facts: Welcome) -> list[Message]:
        return [
            _json(
                "ready",
                session=facts.session,
                model=facts.model,
                preset=facts.preset,
                seed=str(facts.config.seed),  # JavaScript would round a number of 64 bits
                sample_rate=facts.sample_rate,
                frame_size=facts.frame_size,
            )
        ]

    def parse(self, message: Message) -> Meaning:
        if isinstance(message, bytes):
            return Heard(self._samples.decode(message)) if message else None
        kind = read_object(message).get("type")
        if kind == "end":
            return EndOfInput()
        raise ProtocolError(f'a text message must be {{"type": "end"}}; got the type {shown(kind)}')

    def encode(self, pcm: np.ndarray) -> bytes:
        return self._samples.encode(pcm)

    def reply(self, reply: Reply) -> list[Message]:
        out: list[Message] = []
        if reply.text:
            out.append(_json("text", text=reply.text, frame=reply.frame))
        if reply.sound:
            if not self._has_spoken:
                # The first frames have no reply: who measures delays has to know which frame this is the reply to.
                self._has_spoken = True
                out.append(_json("first_sound", frame=reply.frame))
            out.append(reply.sound)
        return out

    def report(self, figures: Mapping[str, float]) -> list[Message]:
        return [_json("stats", **figures)]

    def notice(self, notice: Notice) -> list[Message]:
        return [_json("notice", code=notice.code, message=notice.message)]

    def farewell(self, ended: Ended, retry_seconds: int | None = None) -> list[Message]:
        if ended.why is End.FINISHED:
            return [_json("end")]
        retry = {} if retry_seconds is None else {"retry_seconds": retry_seconds}
        return [_json("error", code=ended.why.name.lower(), message=ended.message or ended.why.label, **retry)]


def _json(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind} | fields)
