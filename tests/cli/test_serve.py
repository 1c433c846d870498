"""`clearline serve`: what it refuses, and one run from start to signal."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkpoints import DATA
from helpers.command import command

import clearline as package

websockets = pytest.importorskip("websockets.asyncio.client")
pytest.importorskip("sphn")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--host", "0.0.0.0"], "token"),
        (["--host", "0.0.0.0", "--token", "short"], "16 printable"),
        (["--tls-cert", "a.pem"], "go together"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem"], "a.pem does not exist"),
        (["--allow-origin", "example.org"], "not an origin"),
        (["--preset", "nobodys"], "no preset 'nobodys'"),
        (["--log-level", "loud"], "log level"),
        (["--model", "/does/not/exist"], "/does/not/exist"),
        (["--port", "99999"], "65535"),
        (["--max-sessions", "0"], "max-sessions"),
    ],
)
def test_mistakes(clearline, arguments, message):
    answer = clearline("serve", *arguments)
    assert answer.code == 2 and message in answer.err and "Traceback" not in answer.err


def test_without_the_extra_it_says_what_to_install():
    prelude = "import sys\nfrom importlib.machinery import PathFinder\n" + (
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *more: None if name.split('.')[0] in ('uvicorn', 'sphn') else find(name, *more)"
    )
    answer = command("serve", prelude=prelude)
    assert answer.code == 2
    assert answer.err == "error: the server needs uvicorn, sphn: install them with pip install 'clearline[server]'\n"


def test_from_start_to_signal():
    """It says where it is; a conversation that is running when the signal comes is warned, served on, and closed politely."""
    program = [sys.executable, "-m", "clearline", "serve", "--model", str(DATA / "moshi_d1"), "--port", "0", "--drain-seconds", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.match(r"clearline serves \S+ at http://(127\.0\.0\.1:\d+) \(", line)
            assert address, line + server.stderr.read()
            said = asyncio.run(asyncio.wait_for(_interrupted(address[1], server), 30))
            assert server.wait(10) == 0
        finally:
            server.kill()
        events = [json.loads(entry) for entry in server.stderr.read().splitlines()]
    assert [message["type"] for message in said if message["type"] in ("ready", "notice", "error")] == ["ready", "notice", "error"]
    assert said[-1]["code"] == "going_away"
    assert [entry["event"] for entry in events] == ["session opened", "draining", "session closed"]
    assert events[2]["reason"] == "server is going down" and events[2]["frames"] == 4


async def _interrupted(address: str, server: subprocess.Popen) -> list[dict]:
    said = []
    async with websockets.connect(f"ws://{address}/api/pcm") as socket:
        said.append(json.loads(await socket.recv()))
        await socket.send(bytes(2 * 1920 * 2))
        server.send_signal(signal.SIGTERM)
        async for message in socket:
            if isinstance(message, str):
                said.append(json.loads(message))
                if said[-1]["type"] == "notice":
                    await socket.send(bytes(2 * 1920 * 2))
                if said[-1]["type"] == "error":
                    return said
    return said
