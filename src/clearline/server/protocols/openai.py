"""The subset of OpenAI's Realtime protocol that a full-duplex model can keep: sound in all the time, sound and transcript out.

The model decides by itself when it speaks, and hears while it does. So there is no `response.create` and no commit: what it
says is cut into responses where it is quiet. What a client asks for and cannot have is refused by an `error` event that names
it; the conversation goes on.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clearline.config import GenerationConfig
from clearline.errors import ClearlineError
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols.base import Answer, Heard, Meaning, Message, ProtocolError, Welcome
from clearline.server.protocols.objects import read_base64, read_object, shown
from clearline.server.protocols.openai_response import Counter, Response
from clearline.server.protocols.samples import G711, Linear16, Samples
from clearline.server.settings import MODEL, settings
from clearline.server.state import End

# A response ends when this many frames in a row brought no text and nothing that can be heard: 2 s.
QUIET_FRAMES = 25
AUDIBLE_DB = -50.0
_TURNS = ("server_vad", "semantic_vad")
# Looked at by themselves in an update.
_SETTLED = ("session.audio.input.format", "session.audio.output.format", "session.audio.input.turn_detection")
_SILENT, _AUDIBLE = b"\x00", b"\x01"


class _RefusedError(ClearlineError):
    """An event that cannot be obeyed; `param` names the field."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class OpenAIProtocol:
    name = "openai"
    waits = False

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._formats: dict[str, Callable[[], Samples]] = {
            "audio/pcm": Linear16,
            "audio/pcmu": lambda: G711("ULAW", sample_rate),
            "audio/pcma": lambda: G711("ALAW", sample_rate),
        }
        self._samples: dict[str, Samples] = {"input": Linear16(), "output": Linear16()}
        self._has_heard = False
        self._count = Counter()
        self._response: Response | None = None
        self._quiet = 0
        self._session = self._fresh_session("")

    def model(self, query: Mapping[str, str]) -> str | None:
        return query.get(MODEL)

    def settings(self, query: Mapping[str, str], base: GenerationConfig) -> GenerationConfig:
        return settings(query, base)

    def welcome(self, facts: Welcome) -> list[Message]:
        self._count = Counter(facts.session)
        self._session = self._fresh_session(facts.model) | {"id": f"sess_{facts.session}"}
        return [self._event("session.created", session=self._session)]

    def parse(self, message: Message) -> Meaning:
        event = read_object(message)
        try:
            match event.get("type"):
                case "input_audio_buffer.append":
                    pcm = self._sound(event.get("audio"))
                    return Heard(pcm) if pcm.size else None
                case "session.update":
                    self._update(event.get("session"))
                    return Answer([self._event("session.updated", session=self._session)])
                case kind:
                    raise _RefusedError("unsupported_event", f"there is no event {shown(kind)} here", "type")
        except _RefusedError as refused:
            return Answer([self._error("invalid_request_error", refused.code, str(refused), refused.param, event.get("event_id"))])

    def encode(self, pcm: np.ndarray) -> bytes:
        """On a thread; the first byte says whether the frame can be heard."""
        loudness = 10 * np.log10(np.mean(np.square(pcm, dtype=np.float64)) + 1e-12)
        return (_AUDIBLE if loudness > AUDIBLE_DB else _SILENT) + self._samples["output"].encode(pcm)

    def reply(self, reply: Reply) -> list[Message]:
        out: list[dict[str, Any]] = []
        speaks = bool(reply.text) or reply.sound.startswith(_AUDIBLE)
        self._quiet = 0 if speaks else self._quiet + 1
        if self._response is None and speaks:
            self._response = Response(self._count, self._session["audio"]["output"])
            out += self._response.begin()
        if self._response is not None:
            if reply.text:
                out.append(self._response.text(reply.text))
            if reply.sound[1:]:
                out.append(self._response.sound(reply.sound[1:]))
            if self._quiet >= QUIET_FRAMES:
                out += self._finish("completed")
        return [json.dumps(event) for event in out]

    def report(self, figures: Mapping[str, float]) -> list[Message]:
        return []

    def notice(self, notice: Notice) -> list[Message]:
        return [self._error("server_error", notice.code, notice.message)]

    def farewell(self, ended: Ended, retry_seconds: int | None = None) -> list[Message]:
        out: list[Message] = [json.dumps(event) for event in self._finish("incomplete")]
        if ended.why is not End.FINISHED:
            fault = "invalid_request_error" if ended.why in (End.BAD_MESSAGE, End.BAD_SETTINGS) else "server_error"
            out.append(self._error(fault, ended.why.name.lower(), ended.message or ended.why.label))
        return out

    def _sound(self, audio: object) -> np.ndarray:
        self._has_heard = True
        try:
            return self._samples["input"].decode(read_base64(audio, "audio"))
        except ProtocolError as error:
            raise _RefusedError("invalid_value", str(error), "audio") from error

    def _finish(self, status: str) -> list[dict[str, Any]]:
        response, self._response = self._response, None
        return [] if response is None else response.finish(status)

    def _fresh_session(self, model: str) -> dict[str, Any]:
        """What is so here, by OpenAI's names; what a client may change of it is in `_update`."""
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_0",
            "model": model,
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "tool_choice": "none",
            "max_output_tokens": "inf",
            "audio": {
                "input": {"format": self._format("audio/pcm"), "turn_detection": {"type": "semantic_vad"}},
                "output": {"format": self._format("audio/pcm"), "voice": model, "speed": 1.0},
            },
        }

    def _format(self, kind: str) -> dict[str, Any]:
        return {"type": kind, "rate": self._rate} if kind == "audio/pcm" else {"type": kind}

    def _update(self, update: object) -> None:
        """All of it or nothing. Raises _RefusedError for the first field that cannot be so here."""
        if not isinstance(update, dict):
            raise _RefusedError("invalid_value", "session must be an object", "session")
        audio = _part(update, "audio", "session")
        sides = {side: _part(audio, side, "session.audio") for side in ("input", "output")}
        chosen = {side: self._chosen(side, part["format"]) for side, part in sides.items() if part.get("format") is not None}
        turns = sides["input"].get("turn_detection", self._session["audio"]["input"]["turn_detection"])
        if not isinstance(turns, dict) or turns.get("type") not in _TURNS or turns.get("create_response", True) is not True:
            why = "the model decides by itself when it speaks: turn_detection can be neither null nor without responses"
            raise _RefusedError("unsupported_value", why, "session.audio.input.turn_detection")
        self._check(update, self._session, "session")
        for side, chosen_format in chosen.items():
            self._session["audio"][side]["format"] = chosen_format
            self._samples[side] = self._formats[chosen_format["type"]]()
        self._session["audio"]["input"]["turn_detection"] = {"type": turns["type"]}

    def _chosen(self, side: str, asked: object) -> dict[str, Any]:
        path = f"session.audio.{side}.format"
        kind = asked.get("type") if isinstance(asked, dict) else None
        if not isinstance(asked, dict) or not isinstance(kind, str) or kind not in self._formats:
            raise _RefusedError("invalid_value", f"{path} must be one of {', '.join(self._formats)}", path)
        chosen = self._format(kind)
        if asked.get("rate", chosen.get("rate")) != chosen.get("rate"):
            raise _RefusedError("unsupported_value", f"{path}.rate must be {self._rate}", f"{path}.rate")
        if self._has_heard and chosen != self._session["audio"][side]["format"]:
            raise _RefusedError("unsupported_value", f"{path} cannot be changed once there has been sound", path)
        return chosen

    def _check(self, update: dict[str, Any], current: dict[str, Any], path: str) -> None:
        for name, value in update.items():
            here = f"{path}.{name[:40]}"
            if here in _SETTLED:
                continue
            if isinstance(value, dict) and isinstance(current.get(name), dict):
                self._check(value, current[name], here)
            elif value is not None and value != current.get(name):
                known = f"it is {shown(current[name])}" if name in current else "there is no such thing"
                raise _RefusedError("unsupported_value", f"{shown(here)} cannot be changed here: {known}", here)

    def _error(self, kind: str, code: str, message: str, param: str | None = None, cause: object = None) -> str:
        event_id = cause[:80] if isinstance(cause, str) else None
        return self._event("error", error={"type": kind, "code": code, "message": message, "param": param, "event_id": event_id})

    def _event(self, kind: str, **fields: object) -> str:
        return json.dumps(self._count.event(kind, **fields))


def _part(whole: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    """An object inside an object; nothing and null are an empty one."""
    part = whole.get(name)
    if part is not None and not isinstance(part, dict):
        raise _RefusedError("invalid_value", f"{path}.{name} must be an object", f"{path}.{name}")
    return part or {}
