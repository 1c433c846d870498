"""Messages of clients that are broken or malicious: random ones, and real ones damaged; fed to every protocol.

    PYTHONPATH=tests python -m helpers.fuzz --messages 1000000

feeds a million, and prints what became of them and how much the process has grown.
"""

import argparse
import base64
import gc
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sphn

from clearline.errors import ClearlineError
from clearline.server.protocols import Answer, EndOfInput, Heard, PcmProtocol, Protocol, Start
from clearline.server.protocols.kyutai import KyutaiProtocol
from clearline.server.protocols.openai import OpenAIProtocol
from clearline.server.protocols.opus import OpusProtocol
from clearline.server.protocols.twilio import TwilioProtocol

RATE = 24_000
Message = str | bytes
# A client that goes on for ever would go on with one protocol; more often it is told to leave.
MOST_PER_CONNECTION = 200


def opus(frames: int = 6) -> list[bytes]:
    writer = sphn.OpusStreamWriter(RATE)
    tone = (0.3 * np.sin(np.arange(1920 * frames) * 0.05)).astype(np.float32)
    return [writer.append_pcm(frame) for frame in tone.reshape(-1, 1920)]


def texts(*objects: dict[str, Any]) -> list[Message]:
    return [json.dumps(value) for value in objects]


_SOUND = base64.b64encode(bytes(range(160)) * 2).decode()
_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
_START = {"streamSid": "MZ1", "mediaFormat": _FORMAT, "customParameters": {"seed": "1"}}

# What a real client sends, in its order.
REAL: dict[str, tuple[Callable[[], Protocol], list[Message]]] = {
    "pcm": (PcmProtocol, [bytes(3840), bytes(range(200)), *texts({"type": "end"})]),
    "opus": (lambda: OpusProtocol(RATE), [*opus(), *texts({"type": "end"})]),
    "kyutai": (lambda: KyutaiProtocol(RATE), [bytes(9), *(b"\x01" + page for page in opus()), b"\x02text", b"\x06"]),
    "openai": (
        lambda: OpenAIProtocol(RATE),
        texts(
            {"type": "session.update", "event_id": "1", "session": {"type": "realtime", "audio": {
                "input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "server_vad"}},
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "nano", "speed": 1.0}}}},
            {"type": "input_audio_buffer.append", "audio": _SOUND}, {"type": "response.create"},
        ),
    ),
    "twilio": (
        lambda: TwilioProtocol(RATE),
        texts(
            {"event": "connected", "protocol": "Call", "version": "1.0.0"}, {"event": "start", "streamSid": "MZ1", "start": _START},
            {"event": "media", "streamSid": "MZ1", "media": {"track": "inbound", "payload": _SOUND}},
            {"event": "mark", "mark": {"name": "4"}}, {"event": "stop"},
        ),
    ),
}  # fmt: skip

_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1e308, float("nan"), "", "x" * 300, "\ud800", "\x00", "é", [], {}, [[[]]], {"type": {}}, _SOUND,
)  # fmt: skip


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0 if out:
                out[place % len(out)] = rng.randrange(256)
            case 1:
                del out[place : place + rng.randrange(1, 20)]
            case 2:
                out[place:place] = out[: rng.randrange(40)]
            case 3:
                out[place:place] = rng.randbytes(rng.randrange(8))
    return bytes(out)


def damaged_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one part of it replaced, left out or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(6):
            case 0:
                del changed[name]
            case 1:
                changed[rng.choice(("type", "event", "audio", "session", "start", "surprise"))] = rng.choice(_ODD)
            case _:
                changed[name] = damaged_value(value[name], rng)
        return changed
    return rng.choice(_ODD)


def damaged(message: Message, rng: random.Random) -> Message:
    if isinstance(message, bytes):
        return damaged_bytes(message, rng)
    if rng.random() < 0.6:
        return json.dumps(damaged_value(json.loads(message), rng))
    text = damaged_bytes(message.encode(), rng).decode(errors="replace")
    return text if rng.random() < 0.9 else text.encode()


def connection(real: list[Message], rng: random.Random) -> Iterator[Message]:
    """The messages of one client: real ones damaged, doubled and out of order, and some that are noise."""
    messages = list(real)
    if rng.random() < 0.2:
        rng.shuffle(messages)
    for _ in range(MOST_PER_CONNECTION):
        for message in messages:
            kind = rng.random()
            if kind < 0.05:
                yield rng.randbytes(rng.randrange(400))
            elif kind < 0.1:
                yield "".join(chr(rng.randrange(0x3000)) for _ in range(rng.randrange(60)))
            elif kind < 0.5:
                yield message
            else:
                yield damaged(message, rng)


def fed(name: str, count: int, seed: int) -> Counter[str]:
    """What `count` messages meant to a protocol; anything but a meaning or a short refusal is raised."""
    rng = random.Random(f"{name} {seed}")
    make, real = REAL[name]
    became: Counter[str] = Counter()
    while became.total() < count:
        protocol = make()
        for number, message in enumerate(connection(real, rng)):
            if number >= MOST_PER_CONNECTION or became.total() >= count:
                break
            try:
                meaning = protocol.parse(message)
            except ClearlineError as error:
                assert len(str(error)) < 300, error
                str(error).encode()  # it goes into a close frame
                became["refused"] += 1
                break  # the server closes
            match meaning:
                case Heard(pcm):
                    assert pcm.dtype == np.float32 and pcm.ndim == 1 and np.isfinite(pcm).all()
                case Start(query):
                    assert all(isinstance(text, str) for pair in query.items() for text in pair)
                case Answer(messages):
                    assert sum(map(len, messages)) < 4000
                case _:
                    assert meaning is None or isinstance(meaning, EndOfInput)
            became[type(meaning).__name__] += 1
    return became


def resident_bytes() -> int:
    """Memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    each = options.messages // len(REAL)
    for name in REAL:
        fed(name, 2000, options.seed + 1)  # what is made once is made now
        gc.collect()
        before, started = resident_bytes(), time.monotonic()
        became = fed(name, each, options.seed)
        gc.collect()
        facts = {
            "protocol": name, "messages": became.total(), "became": dict(became), "seconds": round(time.monotonic() - started, 1),
            "grown_kb": (resident_bytes() - before) // 1024,
        }  # fmt: skip
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
