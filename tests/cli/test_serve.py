"""`clearline serve`: what it refuses, and one run from start to signal."""

import asyncio
import base64
import hmac
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

import numpy as np
import pytest
from helpers.checkpoints import DATA
from helpers.command import command

import clearline as package
from clearline.cli.serve import named_folders

websockets = pytest.importorskip("websockets.asyncio.client")
pytest.importorskip("sphn")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

TWILIO = "the auth token of an account"


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
        (["--model", "nano", "--model", "nano"], "two models are called 'nano'"),
        (["--model", "a=nano", "--model", "a=/does/not/exist"], "as --model OTHER=/does/not/exist"),
        (["--model", "nano", "--model", "b=/does/not/exist"], "there is no model at /does/not/exist"),
        (["--model", "nano", "--model", "b=nano", "--batch", "2"], "--batch steps one model"),
        (["--batch", "2", "--workers", "2"], "--workers has no meaning beside it"),
        (["--batch", "2", "--max-sessions", "3"], "--batch 2 has room for 2 conversations, fewer than --max-sessions 3"),
        (["--batch", "2", "--backend", "mlx/cpu"], "--batch is for --backend torch; the backend that is asked for is mlx/cpu"),
        (["--twilio-signed"], "TWILIO_AUTH_TOKEN"),
        (["--threads", "0"], "threads is 0; it must be a whole number in 1..1024"),
    ],
)
def test_mistakes(clearline, arguments, message, monkeypatch):
    monkeypatch.delenv("TWILIO_AUTH_TOKEN", raising=False)
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


@pytest.mark.parametrize(
    "models, named",
    [
        (["nano"], {"nano": "nano"}), (["/models/moshiko/"], {"moshiko": "/models/moshiko/"}),
        (["kyutai/moshiko-pytorch-bf16", "mine=nano"], {"moshiko-pytorch-bf16": "kyutai/moshiko-pytorch-bf16", "mine": "nano"}),
        (["/models/a=b"], {"a=b": "/models/a=b"}), (["v1.2=/models/a=b"], {"v1.2": "/models/a=b"}), (["."], {Path.cwd().name: "."}),
    ],
)  # fmt: skip
def test_what_clients_call_a_model(models, named):
    assert named_folders(models) == named


@contextmanager
def serving(*more):
    """(process, host:port) of `clearline serve` with a tiny model; killed when it takes two minutes."""
    program = [sys.executable, "-m", "clearline", "serve", "--model", str(DATA / "moshi_d1"), "--port", "0", *more]
    environment = os.environ | {
        "PYTHONPATH": str(Path(package.__file__).parents[1]), "PYTHONUNBUFFERED": "1", "TWILIO_AUTH_TOKEN": TWILIO,
    }  # fmt: skip
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


def test_two_models_and_signed_calls():
    """Each is loaded from its own folder, and answers as itself; a call that Twilio has not signed is refused."""

    async def reply(address, name) -> bytes:
        async with websockets.connect(f"ws://{address}/api/pcm?preset=greedy&model={name}") as socket:
            assert json.loads(await socket.recv())["model"] == name
            await socket.send((np.sin(np.arange(8 * 1920) / 9) * 9000).astype("<i2").tobytes())
            await socket.send(json.dumps({"type": "end"}))
            return b"".join([message async for message in socket if isinstance(message, bytes)])

    async def call(address, signed) -> None:
        url = f"wss://{address}/api/twilio"
        proof = base64.b64encode(hmac.digest(TWILIO.encode(), url.encode(), "sha1")).decode()
        headers = {"X-Twilio-Signature": proof} if signed else {}
        async with websockets.connect(f"ws://{address}/api/twilio", additional_headers=headers):
            pass

    with serving("--model", f"other={DATA / 'delay0'}", "--twilio-signed") as (server, address):
        assert " and other (" in server.stdout.readline()
        first, other = (asyncio.run(reply(address, name)) for name in ("moshi_d1", "other"))
        assert first and other and first != other
        asyncio.run(call(address, signed=True))
        with pytest.raises(InvalidStatus) as refused:
            asyncio.run(call(address, signed=False))
        assert refused.value.response.status_code == 403


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
