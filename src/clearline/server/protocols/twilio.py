"""Twilio Media Streams: a telephone call, both ways (`<Connect><Stream url="wss://.../api/twilio/TOKEN"/></Connect>`).

Messages are JSON objects with an `event`: connected, start, media, mark, dtmf and stop from Twilio; media, mark and clear to it.
Sound is mu-law at 8 kHz in base64. Settings are the `<Parameter>`s of the stream, which come with `start`: Twilio takes no query.
"""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from clearline.config import GenerationConfig
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols.base import EndOfInput, Heard, Meaning, Message, ProtocolError, Start, Welcome
from clearline.server.protocols.objects import read_base64, read_object, shown, write_base64
from clearline.server.protocols.samples import G711, TELEPHONE_RATE
from clearline.server.settings import MODEL, settings

# Twilio plays what it gets, one after the other, and says when by returning marks. One goes out every 5 frames (400 ms); when
# the last 5 of them are not back, the caller hears the model 2 s late, for ever: better to drop that sound once.
MARK_FRAMES = 5
MOST_MARKS = 5


class TwilioProtocol:
    name = "twilio"
    waits = True

    def __init__(self, sample_rate: int) -> None:
        self._samples = G711("ULAW", sample_rate)
        self._stream: str | None = None
        self._marks: deque[str] = deque()  # sent, and not yet played
        self._sent = 0

    def model(self, query: Mapping[str, str]) -> str | None:
        return query.get(MODEL)

    def settings(self, query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
        return settings(query, base)

    def welcome(self, facts: Welcome) -> list[Message]:
        return []

    def parse(self, message: Message) -> Meaning:
        event = read_object(message)
        kind = event.get("event")
        if kind == "start":
            return Start(self._started(event.get("start")))
        if kind == "media":
            return self._heard(event.get("media"))
        if kind == "stop":
            return EndOfInput()
        if kind == "mark":
            self._played(event.get("mark"))
        elif kind not in ("connected", "dtmf"):
            raise ProtocolError(f"Twilio's media streams have no event {shown(kind)}")
        return None

    def encode(self, pcm: np.ndarray) -> bytes:
        return self._samples.encode(pcm)

    def reply(self, reply: Reply) -> list[Message]:
        if not reply.sound:
            return []
        out: list[Message] = []
        if len(self._marks) > MOST_MARKS:
            self._marks.clear()
            out.append(self._event("clear"))
        out.append(self._event("media", media={"payload": write_base64(reply.sound)}))
        self._sent += 1
        if self._sent % MARK_FRAMES == 0:
            self._marks.append(str(reply.frame))
            out.append(self._event("mark", mark={"name": str(reply.frame)}))
        return out

    def report(self, figures: Mapping[str, float]) -> list[Message]:
        return []

    def notice(self, notice: Notice) -> list[Message]:
        return []

    def farewell(self, ended: Ended, retry_seconds: int | None = None) -> list[Message]:
        return []  # the close code says it; the call goes on with the next verb of its TwiML

    def _started(self, start: object) -> Mapping[str, str]:
        facts: dict[str, Any] = start if isinstance(start, dict) else {}
        stream, form, wishes = facts.get("streamSid"), facts.get("mediaFormat"), facts.get("customParameters") or {}
        if self._stream is not None:
            raise ProtocolError("a stream starts once")
        if not isinstance(stream, str) or not 0 < len(stream) <= 100:
            raise ProtocolError("start needs a streamSid")
        expected = {"encoding": "audio/x-mulaw", "sampleRate": TELEPHONE_RATE, "channels": 1}
        if form != expected:
            raise ProtocolError(f"mediaFormat must be {json.dumps(expected)}")
        if not isinstance(wishes, dict) or not all(isinstance(value, str) for value in wishes.values()):
            raise ProtocolError("customParameters must be texts by their names")
        self._stream = stream
        return wishes

    def _heard(self, media: object) -> Heard | None:
        if self._stream is None:
            raise ProtocolError("media before start")
        facts: dict[str, Any] = media if isinstance(media, dict) else {}
        if facts.get("track", "inbound") != "inbound":
            return None  # the stream was asked for both tracks; the other one is the model itself
        pcm = self._samples.decode(read_base64(facts.get("payload"), "media.payload"))
        return Heard(pcm) if pcm.size else None

    def _played(self, mark: object) -> None:
        """Marks come back in their order, all at once after a clear; others than ours mean nothing."""
        name = mark.get("name") if isinstance(mark, dict) else None
        if name in self._marks:
            while self._marks.popleft() != name:
                pass

    def _event(self, kind: str, **fields: object) -> str:
        return json.dumps({"event": kind, "streamSid": self._stream, **fields})
