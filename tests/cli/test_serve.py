"""`clearline serve`: what it refuses, and one run from start to signal."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.checkpoints import DATA
from helpers.command import command

import clearline as package

websockets = pytest.importorskip("websockets.asyncio.client")
pytest.importorskip("sphn")
from websockets.exceptions import ConnectionClosed  # noqa: E402


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


def test_a_port_that_is_taken_is_noticed_before_the_model_is_read(clearline):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = clearline("serve", "--port", taken.getsockname()[1], "--model", "/does/not/exist")
    assert answer.code == 2 and "cannot listen on 127.0.0.1 port" in answer.err


def test_without_the_extra_it_says_what_to_install():
    prelude = "import sys\nfrom importlib.machinery import PathFinder\n" + (
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *more: None if name.split('.')[0] in ('uvicorn', 'sphn') else find(name, *more)"
    )
    answer = command("serve", prelude=prelude)
    assert answer.code == 2
    assert answer.err == "error: the server needs uvicorn, sphn: install them with pip install 'clearline[server]'\n"


@contextmanager
def serving():
    """(process, host:port) of `clearline serve` with a tiny model; killed when it takes two minutes."""
    program = [sys.executable, "-m", "clearline", "serve", "--model", str(DATA / "moshi_d1"), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        clock = threading.Timer(120, server.kill)
        clock.start()
        try:
            assert server.stdout is not None and server.stderr is not None
            line = server.stdout.readline()
            address = re.match(r"clearline serves \S+ at http://(127\.0\.0\.1:\d+) \(", line)
            assert address, line + server.stderr.read()
            yield server, address[1]
        finally:
            clock.cancel()
            server.kill()


def test_a_signal_lets_conversations_finish():
    """It says where it is; a conversation that is running when the signal comes is warned and served to its end."""

    async def talk(server, address) -> list[dict]:
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
                        await socket.send(json.dumps({"type": "end"}))
        return said

    with serving() as (server, address):
        said = asyncio.run(talk(server, address))
        assert server.wait() == 0
        events = [json.loads(entry) for entry in server.stderr.read().splitlines()]
    assert [message["type"] for message in said if message["type"] in ("ready", "notice", "error", "end")] == [
        "ready",
        "notice",
        "end",
    ]
    assert [entry["event"] for entry in events] == ["session opened", "draining", "session closed"]
    assert events[2]["reason"] == "finished" and events[2]["frames"] == 4


def test_a_second_signal_ends_them_at_once():
    async def talk(server, address) -> None:
        async with websockets.connect(f"ws://{address}/api/pcm") as socket:
            await socket.recv()
            server.send_signal(signal.SIGTERM)
            while json.loads(await socket.recv())["type"] != "notice":
                pass
            server.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                while True:
                    await socket.recv()

    with serving() as (server, address):
        asyncio.run(talk(server, address))
        assert server.wait() == 0
        assert "Traceback" not in server.stderr.read()
