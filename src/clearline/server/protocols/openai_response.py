"""One response of OpenAI's Realtime protocol: the events from its first word to its end, in their order."""

import itertools
from collections.abc import Iterator
from typing import Any

from clearline.server.protocols.objects import write_base64

# A response has one item, and that one part.
_PLACE = {"output_index": 0, "content_index": 0}


class Counter:
    """Names of events, responses and items: unique within a conversation."""

    def __init__(self, session: int = 0) -> None:
        self._session = session
        self._given: dict[str, Iterator[int]] = {}

    def name(self, kind: str) -> str:
        """Also on two threads at once: each of these steps is one of the interpreter's."""
        return f"{kind}_{self._session}_{next(self._given.setdefault(kind, itertools.count(1)))}"

    def event(self, kind: str, **fields: object) -> dict[str, Any]:
        return {"type": kind, "event_id": self.name("event"), **fields}


class Response:
    """`output` is the session's description of its sound."""

    def __init__(self, count: Counter, output: dict[str, Any]) -> None:
        self._count = count
        self._output = output
        self._id, self._item = count.name("resp"), count.name("item")
        self._transcript = ""

    def begin(self) -> list[dict[str, Any]]:
        return [
            self._count.event("response.created", response=self._described("in_progress", [])),
            self._on("response.output_item.added", output_index=0, item=self._message("in_progress", [])),
            self._count.event("conversation.item.added", item=self._message("in_progress", [])),
            self._in_item("response.content_part.added", part={"type": "audio", "transcript": ""}),
        ]

    def text(self, delta: str) -> dict[str, Any]:
        if not self._transcript:
            delta = delta.lstrip()  # a word begins with its space, a transcript does not
        self._transcript += delta
        return self._in_item("response.output_audio_transcript.delta", delta=delta)

    def sound(self, data: bytes) -> dict[str, Any]:
        return self._in_item("response.output_audio.delta", delta=write_base64(data))

    def finish(self, status: str) -> list[dict[str, Any]]:
        """status: "completed" or "incomplete"."""
        message = self._message(status, [{"type": "output_audio", "transcript": self._transcript}])
        return [
            self._in_item("response.output_audio.done"),
            self._in_item("response.output_audio_transcript.done", transcript=self._transcript),
            self._in_item("response.content_part.done", part={"type": "audio", "transcript": self._transcript}),
            self._on("response.output_item.done", output_index=0, item=message),
            self._count.event("conversation.item.done", item=message),
            self._count.event("response.done", response=self._described(status, [message])),
        ]

    def _described(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        sound = {"format": self._output["format"], "voice": self._output["voice"]}
        return {
            "object": "realtime.response",
            "id": self._id,
            "status": status,
            "output": output,
            "output_modalities": ["audio"],
            "audio": {"output": sound},
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "object": "realtime.item",
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _in_item(self, kind: str, **fields: object) -> dict[str, Any]:
        return self._on(kind, item_id=self._item, **_PLACE, **fields)

    def _on(self, kind: str, **fields: object) -> dict[str, Any]:
        return self._count.event(kind, response_id=self._id, **fields)
