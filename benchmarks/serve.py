"""What `clearline serve` gives: latency from mouth to ear, conversations at once, memory, an hour's soak, killed clients.

Command line:  python benchmarks/serve.py [--model nano] [--only latency,sessions,memory,soak,kills] [--write]
               [--latency-seconds 60] [--hold-seconds 600] [--soak-minutes 60] [--kills 100] ...

The server is a process of its own, and so are the clients that are killed; all the others live in this one and take their
part of the same cores. Only `--write` changes benchmarks/serve.md. Linux only: memory is read from /proc.
"""

import argparse
import asyncio
import functools
import json
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from timing import machine
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

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.address}/health", timeout=30) as answer:
            facts: dict[str, Any] = json.load(answer)
            return facts


@contextmanager
def serving(model: str, load: float) -> Iterator[Server]:
    """A server that admits up to `load` of its workers' time; killed at the end."""
    command = [sys.executable, __file__, "--as-server", str(load), "--model", model]
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
    import os

    from clearline.app import load as load_model
    from clearline.server.access import Access
    from clearline.server.limits import Limits
    from clearline.server.run import Options, bind, serve

    def started(address: str, hub: Any) -> None:
        facts = {"address": address.removeprefix("http://"), "room": hub.room, "step_ms": 1000 * hub.capacity.step_seconds}
        print(json.dumps(facts), flush=True)

    workers = len(os.sched_getaffinity(0))
    options = Options("127.0.0.1", Access(), Limits(load=load), workers)
    with bind("127.0.0.1", 0) as listener:
        serve(listener, load_model(model, threads=1), model, options, started)


@dataclass
class Heard:
    """What one client got. latencies: milliseconds from a frame sent, as soon as it was whole, to its reply."""

    sent: int = 0
    replies: int = 0
    latencies: list[float] = field(default_factory=list)
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
                    continue
                heard.last = json.loads(message)
                match heard.last["type"]:
                    case "ready":
                        heard.ready.set()
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


def missed(heard: list[Heard]) -> int:
    """Frames that the server answered after their 80 ms; one more for each client that was not served to its end."""
    return int(sum(one.stats.get("missed", 0) + (not one.whole) for one in heard))


def latency(options: argparse.Namespace) -> dict[str, Any]:
    with serving(options.model, 1.0) as server:
        heard = asyncio.run(talk(server.address, options.latency_seconds))
        values = np.array(heard.latencies)
        quantiles = {f"p{q}_ms": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99)}
        return quantiles | {"worst_ms": round(float(values.max()), 1), "frames": len(values), "step_ms": round(server.step_ms, 1)}


def sessions(options: argparse.Namespace) -> dict[str, Any]:
    """The most that are held for `probe_seconds` without a miss, by doubling and halving; then that many for `hold_seconds`."""
    with serving(options.model, 1e6) as server:
        admitted = max(1, int(0.75 * len_cores() * SECONDS * 1000 / server.step_ms))

        def holds(count: int, seconds: float) -> bool:
            late = missed(asyncio.run(together(server.address, count, seconds)))
            print(f"  {count} for {seconds:g} s: {late} missed", file=sys.stderr, flush=True)
            return late == 0

        most, too_many = 0, 1
        while too_many <= options.most_sessions and holds(too_many, options.probe_seconds):
            most, too_many = too_many, 2 * too_many
        while too_many - most > 1:
            middle = (most + too_many) // 2
            most, too_many = (middle, too_many) if holds(middle, options.probe_seconds) else (most, middle)
        held = most
        while held > 0 and not holds(held, options.hold_seconds):
            held -= max(1, held // 10)
        return {
            "held": held, "hold_seconds": options.hold_seconds, "held_in_probe": most, "probe_seconds": options.probe_seconds,
            "admitted_by_default": admitted, "step_ms": round(server.step_ms, 1),
        }  # fmt: skip


def len_cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory by conversations open at once, each after `memory_seconds` of sound."""
    with serving(options.model, 1e6) as server:

        async def measured(count: int) -> float:
            heard = [Heard() for _ in range(count)]
            tasks = [asyncio.create_task(talk(server.address, 3600, 0, heard=one)) for one in heard]
            while min(one.replies for one in heard) < options.memory_seconds / SECONDS:
                await asyncio.sleep(0.2)
            resident = server.resident / 1e6
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while server.health()["sessions"]:
                await asyncio.sleep(0.1)
            return resident

        counts = (1, options.memory_sessions)
        first, last = (asyncio.run(measured(count)) for count in counts)
        again = asyncio.run(measured(1))
        each = (last - first) / (counts[1] - counts[0])
        return {
            "each_mb": round(each, 2), "of_sessions": counts[1], "server_with_one_mb": round(first), "one_again_mb": round(again),
        }  # fmt: skip


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """One conversation of `soak_minutes` of sound, as fast as the machine goes; memory once a minute of sound."""
    with serving(options.model, 1e6) as server:

        async def run() -> tuple[Heard, list[float]]:
            heard, sizes = Heard(), []
            task = asyncio.create_task(talk(server.address, options.soak_minutes * 60, paced=False, heard=heard))
            while not task.done():
                await asyncio.sleep(0.05)
                if heard.replies * SECONDS >= 60 * (len(sizes) + 1):
                    sizes.append(server.resident / 1e6)
                    print(f"  {len(sizes)} minutes: {sizes[-1]:.1f} MB", file=sys.stderr, flush=True)
            return await task, sizes

        started = time.perf_counter()
        heard, sizes = asyncio.run(run())
        settled = sizes[len(sizes) // 4 :]
        return {
            "minutes_of_sound": options.soak_minutes, "whole": heard.whole, "frames": heard.replies,
            "times_real_time": round(options.soak_minutes * 60 / (time.perf_counter() - started), 1),
            "mb_after_a_quarter": round(settled[0], 1) if settled else None,
            "mb_at_the_end": round(sizes[-1], 1) if sizes else None,
        }  # fmt: skip


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """Clients in processes of their own are killed (SIGKILL) at random moments, beside two that must not notice."""
    rng = random.Random(1)
    with serving(options.model, 1e6) as server:

        def kill_one() -> bool:
            command = [sys.executable, __file__, "--as-client", server.address, rng.choice(("burst", "steady", "deaf"))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL) as client:
                assert client.stdout is not None
                talked = client.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0, 1))
                client.kill()
            return talked

        async def run() -> tuple[list[Heard], int]:
            heard = [Heard(), Heard()]
            # Longer than the killing can take; they say goodbye after it.
            staying = [asyncio.create_task(talk(server.address, 24 * 3600, heard=one)) for one in heard]
            await asyncio.gather(*(one.ready.wait() for one in heard))
            killed = 0
            for _ in range(options.kills):
                killed += await asyncio.to_thread(kill_one)
            for _ in range(600):
                if (left := server.health()["sessions"]) <= 2:
                    break
                await asyncio.sleep(0.1)
            for one in heard:
                one.enough = True
            await asyncio.gather(*staying)
            return heard, killed if left <= 2 else -1

        heard, killed = asyncio.run(asyncio.wait_for(run(), 60 * options.kills))
        return {
            "killed": killed, "neighbours_frames": sum(one.replies for one in heard),
            "neighbours_served_to_the_end": all(one.whole for one in heard),
            "neighbours_missed": int(sum(one.stats.get("missed", 0) for one in heard)),
        }  # fmt: skip


async def as_client(address: str, kind: str) -> None:
    """A client that will be killed: in real time, as fast as it can, or without ever reading."""
    if kind != "deaf":
        heard = Heard()
        task = asyncio.create_task(talk(address, 3600, paced=kind == "steady", heard=heard))
        await heard.ready.wait()
        print("ready", flush=True)
        await task
    async with connect(f"ws://{address}/api/pcm", compression=None, max_queue=1) as socket:
        await socket.recv()
        print("ready", flush=True)
        with suppress(OSError):
            while True:
                await socket.send(bytes(BYTES))


PARTS = {"latency": latency, "sessions": sessions, "memory": memory, "soak": soak, "kills": kills}


def page(figures: dict[str, dict[str, Any]], model: str, where: str) -> str:
    """benchmarks/serve.md."""
    lines = [
        "# `clearline serve`", "",
        f"Made by `python benchmarks/serve.py --write`, model {model}, {where}. Server and clients", "share the machine.", "",
        "Latency is from a frame of 80 ms sent, as soon as it is whole, to its reply received, over loopback; from mouth to",
        "ear it is 80 ms more, and what sound card and player add. Sessions are held when no frame is answered after its 80 ms.",
        "",
    ]  # fmt: skip
    for part, facts in figures.items():
        lines += [f"## {part.capitalize()}", "", "| | |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items()] + [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--latency-seconds", type=float, default=60)
    parser.add_argument("--probe-seconds", type=float, default=20)
    parser.add_argument("--hold-seconds", type=float, default=600)
    parser.add_argument("--most-sessions", type=int, default=64)
    parser.add_argument("--memory-seconds", type=float, default=30)
    parser.add_argument("--memory-sessions", type=int, default=4)
    parser.add_argument("--soak-minutes", type=float, default=60)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="write benchmarks/serve.md")
    parser.add_argument("--as-server", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--as-client", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_server is not None:
        as_server(options.model, options.as_server)
    elif options.as_client is not None:
        asyncio.run(as_client(*options.as_client))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server does not outlive it
        where, figures = machine(), {}
        for part in options.only.split(","):
            print(part, file=sys.stderr, flush=True)
            figures[part] = PARTS[part](options)
            print(json.dumps({part: figures[part]}), flush=True)
        if options.write:
            (ROOT / "benchmarks" / "serve.md").write_text(page(figures, options.model, where))


if __name__ == "__main__":
    main()
