"""Several models in one server: clients of every protocol choose by name, and a name is never more than that."""

import asyncio
import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import sphn
from helpers.serving import FRAME, NO_CODES, Halver, running

from clearline.config import GenerationConfig
from clearline.generate import Frame
from clearline.server.hub import Hub
from clearline.server.limits import Limits
from clearline.server.metrics import Metrics
from clearline.server.offer import Offer

websockets = pytest.importorskip("websockets.asyncio.client")
from websockets.exceptions import ConnectionClosedError  # noqa: E402

connect = websockets.connect
SOUND = bytes(2 * 3 * FRAME)
BYE = json.dumps({"type": "end"})
START = {"streamSid": "MZ1", "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}}


class Named(Halver):
    """Says its own name in every frame."""

    name = ""

    def step(self, pcm):
        super().step(pcm)
        return Frame(pcm + 0.1, f" {self.name}", 5, NO_CODES, NO_CODES, None)


class Anna(Named):
    name = "anna"


class Berta(Named):
    name = "berta"


@contextmanager
def two_models() -> Iterator[str]:
    """The address of a server that offers anna and berta."""
    metrics = Metrics()
    offers = [
        Offer(kind.name, lambda config, kind=kind: kind(), GenerationConfig(seed=seed), FRAME, 24_000)
        for seed, kind in enumerate((Anna, Berta))
    ]
    with running(Hub(offers, Limits(load=1e6), 2, metrics), metrics=metrics) as (address, _):
        yield address


def fetch(address: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as answer:
        return answer.read().decode()


def said(path: str, *messages: str | bytes) -> tuple[list[str | bytes], int | None]:
    """What a server answers to these messages, and its close code."""

    async def talk(address: str) -> tuple[list[str | bytes], int | None]:
        async with connect(f"ws://{address}{path}") as socket:
            for message in messages:
                await socket.send(message)
            received: list[str | bytes] = []
            with suppress(ConnectionClosedError):
                async for message in socket:
                    received.append(message)
            return received, socket.close_code

    with two_models() as address:
        return asyncio.run(asyncio.wait_for(talk(address), 60))


def objects(received: list[str | bytes]) -> list[dict]:
    return [json.loads(message) for message in received if isinstance(message, str)]


@pytest.mark.parametrize("query, name", [("", "anna"), ("?model=anna", "anna"), ("?model=berta&seed=5", "berta")])
def test_a_simple_client_chooses_by_the_query(query, name):
    received, code = said(f"/api/pcm{query}", SOUND, BYE)
    told = objects(received)
    assert told[0]["model"] == name and told[0]["seed"] == ("5" if "seed" in query else "0") and code == 1000
    assert "".join(message["text"] for message in told if message["type"] == "text") == f" {name}" * 3


@pytest.mark.parametrize("name", ["clara", "..%2F..%2Fetc", "%2Fetc%2Fpasswd", "nano", "anna%00", "Anna"])
def test_a_model_that_is_not_offered_is_refused_in_words(name):
    received, code = said(f"/api/pcm?model={name}")
    (error,) = objects(received)
    assert error["code"] == "bad_settings" and code == 1008
    assert "there is no model" in error["message"] and "this server has 'anna', 'berta'" in error["message"]


def test_kyutais_clients_keep_the_first():
    writer = sphn.OpusStreamWriter(24_000)

    async def talk(address: str) -> bytes:
        async with connect(f"ws://{address}/api/chat?model=berta") as socket:
            for _ in range(4):  # Opus is half a frame behind
                await socket.send(b"\x01" + writer.append_pcm(np.zeros(FRAME, np.float32)))
            while not (message := await socket.recv()).startswith(b"\x02"):
                pass
            return message[1:]

    with two_models() as address:
        assert asyncio.run(asyncio.wait_for(talk(address), 60)) == b" anna"


def test_openais_clients_choose_by_its_model():
    async def talk(address):
        async with connect(f"ws://{address}/v1/realtime?model=berta") as socket:
            created = json.loads(await socket.recv())
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(SOUND).decode()}))
            async for message in socket:
                event = json.loads(message)
                if event["type"] == "response.output_audio_transcript.delta":
                    return created["session"], event["delta"]

    with two_models() as address:
        session, delta = asyncio.run(asyncio.wait_for(talk(address), 60))
    assert session["model"] == session["audio"]["output"]["voice"] == delta == "berta"


def test_telephone_calls_choose_by_a_parameter_of_the_stream():
    start = {"event": "start", "start": START | {"customParameters": {"model": "clara"}}}
    assert said("/api/twilio", json.dumps(start))[1] == 1008
    start["start"]["customParameters"]["model"] = "berta"
    assert said("/api/twilio", json.dumps(start), json.dumps({"event": "stop"}))[1] == 1000


def test_what_is_told_of_each_model():
    async def talk(address):
        async with connect(f"ws://{address}/api/pcm?model=berta") as socket:
            await socket.recv()
            return json.loads(fetch(address, "/health")), fetch(address, "/metrics")

    with two_models() as address:
        info = json.loads(fetch(address, "/api/info"))
        health, metrics = asyncio.run(asyncio.wait_for(talk(address), 60))
    assert info["model"] == "anna" and [(name, model["seed"]) for name, model in info["models"].items()] == [
        ("anna", "0"),
        ("berta", "1"),
    ]
    assert health["sessions"] == 1 and {name: model["sessions"] for name, model in health["models"].items()} == {
        "anna": 0,
        "berta": 1,
    }
    assert dict(re.findall(r'clearline_sessions\{model="(\w+)"\} (\S+)', metrics)) == {"anna": "0.0", "berta": "1.0"}
    assert set(re.findall(r'clearline_room\{model="(\w+)"\}', metrics)) == {"anna", "berta"}
