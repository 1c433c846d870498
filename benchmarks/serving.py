"""The server of benchmarks/serve.py, as a process, and the clients that talk to it."""

import asyncio
import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

ROOT = Path(__file__).parents[1]
FRAME, SECONDS, BYTES = 1920, 0.08, 3840


@functools.cache
def question() -> list[bytes]:
    """A recorded question and four seconds of silence, in frames; clients repeat it."""
    from clearline.audio import read_audio, to_mono

    recording = read_audio(ROOT / "examples" / "hello.wav")
    mono = to_mono(recording.samples, recording.rate, 24_000)
    pcm = np.concatenate([mono, np.zeros(4 * 24_000 + -len(mono) % FRAME, np.float32)])
    data = np.rint(np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()
    return [data[i : i + BYTES] for i in range(0, len(data) - BYTES + 1, BYTES)]


@dataclass
class Server:
    """A running server: its process, host:port, and what it said when it began."""

    process: "subprocess.Popen[str]"
    address: str
    room: int
    step_ms: float

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    @property
    def busy(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.address}/health", timeout=30) as answer:
            facts: dict[str, Any] = json.load(answer)
            return facts


@contextmanager
def serving(model: str, load: float) -> Iterator[Server]:
    """A server that admits up to `load` of its workers' time; killed at the end."""
    command = [sys.executable, str(ROOT / "benchmarks" / "serve.py"), "--as-server", str(load), "--model", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as process:
        giving_up = threading.Timer(300, process.kill)
        giving_up.start()
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            giving_up.cancel()
            yield Server(process, **facts)
        finally:
            giving_up.cancel()
            process.kill()


def as_server(model: str, load: float) -> None:
    from clearline.app import load as load_model
    from clearline.server.access import Access
    from clearline.server.limits import Limits
    from clearline.server.run import Options, bind, serve

    def started(address: str, hub: Any) -> None:
        facts = {"address": address.removeprefix("http://"), "room": hub.room(), "step_ms": hub.status()["step_ms"]}
        print(json.dumps(facts), flush=True)

    workers = len(os.sched_getaffinity(0))
    options = Options("127.0.0.1", Access(), Limits(load=load), workers)
    with bind("127.0.0.1", 0) as listener:
        serve(listener, {model: load_model(model, threads=1)}, options, started)


@dataclass
class Heard:
    """What one client got. latencies: milliseconds from a frame sent, as soon as it was whole, to its reply; sound: a hash of
    all of it; texts: by the number of the frame that brought them."""

    sent: int = 0
    replies: int = 0
    latencies: list[float] = field(default_factory=list)
    sound: Any = field(default_factory=hashlib.sha256)
    texts: dict[int, str] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    enough: bool = False  # set by who wants it to say goodbye

    @property
    def whole(self) -> bool:
        """Whether it was served to its end: a reply to every frame but the first ones, which have none."""
        return self.last.get("type") == "end" and 0 <= self.sent - self.replies <= 4


async def talk(address: str, seconds: float, phase: float = 0.0, paced: bool = True, heard: Heard | None = None) -> Heard:
    """One client: speaks for so long, in real time or as fast as it is answered, and takes what comes."""
    heard, frames, sent = heard or Heard(), question(), [0.0] * int(seconds / SECONDS)
    await asyncio.sleep(phase)

    async def speak(socket: Any) -> None:
        started = time.perf_counter()
        for number in range(len(sent)):
            if heard.enough:
                break
            if paced:
                await asyncio.sleep(max(0.0, started + number * SECONDS - time.perf_counter()))
            sent[number] = time.perf_counter()
            await socket.send(frames[number % len(frames)])
            heard.sent += 1
        await socket.send(json.dumps({"type": "end"}))

    # No pings: behind a minute of sound that waits to be read, they would be answered too late.
    async with connect(f"ws://{address}/api/pcm", compression=None, max_queue=None, ping_interval=None) as socket:
        speaking, first = asyncio.create_task(speak(socket)), 0
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    heard.latencies.append(1000 * (time.perf_counter() - sent[first + heard.replies]))
                    heard.replies += 1
                    heard.sound.update(message)
                    continue
                heard.last = json.loads(message)
                match heard.last["type"]:
                    case "ready":
                        heard.ready.set()
                    case "text":
                        heard.texts[heard.last["frame"]] = heard.last["text"]
                    case "first_sound":
                        first = heard.last["frame"]
                    case "stats":
                        heard.stats = heard.last
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
    return heard


async def together(address: str, count: int, seconds: float) -> list[Heard]:
    """So many clients in real time, evenly spread over a frame."""
    return await asyncio.gather(*(talk(address, seconds, SECONDS * i / count) for i in range(count)))
