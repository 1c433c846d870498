"""What `clearline serve` gives: latency from mouth to ear, conversations at once, idle work, memory, an hour's soak, kills.

Command line:  python benchmarks/serve.py [--model nano] [--only latency,sessions,idle,memory,soak,kills] [--write]
               [--latency-seconds 60] [--hold-seconds 600] [--soak-minutes 60] [--kills 100] ...

The server is a process of its own, and so are the clients that are killed; all the others live in this one and take their
part of the same cores. Only `--write` changes benchmarks/serve.md. Linux only: memory is read from /proc.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np
from serving import BYTES, ROOT, SECONDS, Heard, as_server, serving, talk, together
from soak import soak
from timing import machine
from websockets.asyncio.client import connect


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


def idle(options: argparse.Namespace) -> dict[str, Any]:
    """Percent of one core that the server's process uses over `idle_seconds`: alone, beside an open conversation in which
    nothing is heard, and in one whose microphone sends silence."""
    with serving(options.model, 1.0) as server:

        async def used() -> float:
            before, started = server.busy, time.perf_counter()
            await asyncio.sleep(options.idle_seconds)
            return round(100 * (server.busy - before) / (time.perf_counter() - started), 2)

        async def run() -> tuple[float, ...]:
            await asyncio.sleep(2)  # what its start has left to do
            alone = await used()
            async with connect(f"ws://{server.address}/api/pcm", compression=None) as socket:
                await socket.recv()
                opened = await used()
                assert server.health()["sessions"] == 1, "the conversation was closed meanwhile"
                speaking = asyncio.create_task(_silence(socket))
                silent = await used()
                speaking.cancel()
            return alone, opened, silent

        alone, opened, silent = asyncio.run(run())
        return {
            "seconds": options.idle_seconds, "percent_of_a_core_without_conversations": alone,
            "percent_with_an_open_conversation_and_no_sound": opened, "percent_with_a_silent_microphone": silent,
        }  # fmt: skip


async def _silence(socket: Any) -> None:
    async def read() -> None:
        async for _ in socket:
            pass

    reading = asyncio.create_task(read())
    try:
        while True:
            await socket.send(bytes(BYTES))
            await asyncio.sleep(SECONDS)
    finally:
        reading.cancel()


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


PARTS = {"latency": latency, "sessions": sessions, "idle": idle, "memory": memory, "soak": soak, "kills": kills}


def what(model: str) -> str:
    """The code and the weights that were measured."""
    from clearline.app import code_version, model_folder
    from clearline.checkpoint import open_checkpoint

    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    hashes = open_checkpoint(model_folder(model)).hashes()
    return (
        f"Clearline {code_version()}, commit {git.stdout.strip() or 'unknown'}; model {model}, weights {hashes['weights'][:16]}, "
        f"codec {hashes['codec_weights'][:16]} (SHA-256)"
    )


def page(figures: dict[str, dict[str, Any]], measured: str, where: str) -> str:
    """benchmarks/serve.md."""
    lines = [
        "# `clearline serve`", "",
        "Made by `python benchmarks/serve.py --write`. Server and clients share the machine.", "",
        f"{measured}.", "",
        f"{where}.", "",
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
    parser.add_argument("--idle-seconds", type=float, default=20)
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
        where, measured, figures = machine(), what(options.model), {}
        for part in options.only.split(","):
            print(part, file=sys.stderr, flush=True)
            figures[part] = PARTS[part](options)
            print(json.dumps({part: figures[part]}), flush=True)
        if options.write:
            (ROOT / "benchmarks" / "serve.md").write_text(page(figures, measured, where))


if __name__ == "__main__":
    main()
