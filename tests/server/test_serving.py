"""The whole server over loopback: what clients get, and that the worst of them harm nobody."""

import asyncio
import base64
import json
import os
import socket as sockets
import ssl
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from helpers.serving import FRAME, Halver, hub, running, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clearline.server.access import Access
from clearline.server.tls import self_signed

TOKEN = "a-token-of-enough-length"
END = json.dumps({"type": "end"})


def samples(frames: int) -> np.ndarray:
    return (np.arange(frames * FRAME) % 20_000).astype("<i2")


def get(address: str, path: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def read(socket) -> tuple[bytes, list[dict]]:
    """All the sound and all the JSON until the server closes."""
    sound, said = b"", []
    try:
        while True:
            message = await socket.recv()
            if isinstance(message, bytes):
                sound += message
            else:
                said.append(json.loads(message))
    except ConnectionClosed:
        return sound, said


async def talk(address: str, pcm: np.ndarray, path: str = "/api/pcm", chunk: int = FRAME, **keywords):
    async with connect(f"ws://{address}{path}", **keywords) as socket:
        reading = asyncio.create_task(read(socket))
        for i in range(0, len(pcm), chunk):
            await socket.send(pcm[i : i + chunk].tobytes())
        await socket.send(END)
        return *(await asyncio.wait_for(reading, 60)), socket


@contextmanager
def opened(address: str, buffer: int | None = None):
    """A TCP connection to /api/pcm, after the handshake; every wait on it ends after a minute."""
    host, port = address.split(":")
    with sockets.socket() as line:
        line.settimeout(60)
        if buffer is not None:
            line.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, buffer)
        line.connect((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        line.sendall(
            f"GET /api/pcm HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # what is sent before it has come is lost
            answer += line.recv(1)
        assert answer.startswith(b"HTTP/1.1 101")
        yield line


def test_a_conversation_from_end_to_end():
    pcm = samples(30)
    with running() as (address, _):
        sound, said, socket = asyncio.run(talk(address, pcm, "/api/pcm?seed=5&preset=greedy"))
    assert said[0]["type"] == "ready" and said[0]["seed"] == "5" and said[0]["preset"] == "greedy"
    assert "".join(message["text"] for message in said if message["type"] == "text") == "abcdefghijklmnopqrstuvwxyzabcd"
    np.testing.assert_array_equal(np.frombuffer(sound, "<i2"), np.rint(pcm / 2).astype("<i2"))
    assert said[-1] == {"type": "end"} and socket.close_code == 1000


def test_an_address_says_each_thing_once():
    async def ask(address):
        async with connect(f"ws://{address}/api/pcm?seed=7&seed=8") as socket:
            return *(await read(socket)), socket.close_code

    with running() as (address, _):
        sound, said, code = asyncio.run(ask(address))
    assert (sound, code) == (b"", 1008)
    assert said == [{"type": "error", "code": "bad_settings", "message": "seed is given twice, as '7' and '8'"}]


def test_many_at_once_get_each_their_own():
    async def scenario(address):
        recordings = [np.full(20 * FRAME, 100 * (i + 1), "<i2") for i in range(8)]
        answers = await asyncio.gather(*(talk(address, recording, chunk=700 + 31 * i) for i, recording in enumerate(recordings)))
        for recording, (sound, _, _) in zip(recordings, answers, strict=True):
            np.testing.assert_array_equal(np.frombuffer(sound, "<i2"), recording // 2)

    with running() as (address, _):
        asyncio.run(scenario(address))


def test_health_metrics_and_page():
    with running() as (address, made):
        asyncio.run(talk(address, samples(10)))
        code, health = get(address, "/health")
        figures = json.loads(health)
        (of_the_model,) = figures.pop("models").items()
        assert code == 200 and figures | {"load": 0, "step_ms": 0, "room": 0} == {
            "status": "ok", "sessions": 0, "room": 0, "load": 0, "step_ms": 0, "keeps_up": True,
        }  # fmt: skip
        assert of_the_model == ("halver", {name: figures[name] for name in ("sessions", "room", "step_ms", "keeps_up")})
        code, metrics = get(address, "/metrics")
        assert code == 200 and 'clearline_sessions_opened_total{protocol="pcm"} 1.0' in metrics
        assert 'clearline_sessions_closed_total{reason="finished"} 1.0' in metrics
        assert 'clearline_step_seconds_count{model="halver"} 10.0' in metrics
        assert 'clearline_sessions{model="halver"} 0.0' in metrics
        assert "<title>Clearline" in get(address, "/")[1]
        for path in ("/web/../app.py", "/web/%2e%2e/app.py", "/web/..%2f..%2fapp.py", "/web//etc/passwd", "/nothing"):
            assert get(address, path)[0] == 404
        made.draining = True
        assert get(address, "/health")[0] == 503


@pytest.mark.parametrize(
    "message, code, error",
    [
        (b"odd", 1007, "bad_message"),
        ("no json", 1007, "bad_message"),
        (bytes(97_000), 1007, "bad_message"),  # more than two seconds
    ],
)
def test_bad_messages_end_the_conversation_with_a_reason(message, code, error):
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as socket:
            await socket.send(message)
            _, said = await read(socket)
            return said[-1], socket.close_code

    with running() as (address, _):
        last, close_code = asyncio.run(scenario(address))
    assert last["type"] == "error" and last["code"] == error and close_code == code


def test_messages_larger_than_the_limit_are_not_even_read():
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as socket:
            await socket.send(bytes(200_000))
            await read(socket)
            return socket.close_code

    with running() as (address, _):
        assert asyncio.run(scenario(address)) == 1009


def test_who_finds_no_room_is_told_when_to_try_again():
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as first:
            await first.recv()
            async with connect(f"ws://{address}/api/pcm") as second:
                _, said = await read(second)
                assert said == [
                    {
                        "type": "error", "code": "refused", "retry_seconds": 7,
                        "message": "1 conversations are open, and this machine holds 1 without breaking them; "
                        "try again in 7 seconds",
                    }
                ]  # fmt: skip
                assert second.close_code == 1013
            async with connect(f"ws://{address}/api/chat") as third:
                assert (await third.recv())[:1] == b"\x05"
        until(lambda: json.loads(get(address, "/health")[1])["sessions"] == 0)
        assert len((await talk(address, samples(2)))[0]) == 2 * 2 * FRAME

    with running(sessions=1, retry_seconds=7) as (address, _):
        asyncio.run(scenario(address))


def test_a_microphone_that_stalls_is_told_and_let_go():
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as socket:
            await socket.send(samples(2).tobytes())
            _, said = await asyncio.wait_for(read(socket), 60)
            return said[-1], socket.close_code

    with running(stalled_seconds=0.3) as (address, made):
        last, code = asyncio.run(scenario(address))
        assert last["code"] == "stalled" and "send silence" in last["message"] and code == 1008
        until(lambda: made.sessions == 0)


def test_the_longest_conversation():
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as socket:
            _, said = await asyncio.wait_for(read(socket), 60)
            return said[-1]["code"]

    with running(session_seconds=0.3) as (address, _):
        assert asyncio.run(scenario(address)) == "expired"


def test_who_does_not_read_is_cut_off_and_its_state_released(monkeypatch):
    """Raw TCP with a small receive buffer, because every WebSocket library reads ahead."""
    monkeypatch.setattr("clearline.server.sockets.LINGER_SECONDS", 0.2)
    with running(slow_reader_seconds=0.5, stalled_seconds=600) as (address, made), opened(address, buffer=4096) as line:
        body = samples(1).tobytes()
        frame = b"\x82\xfe" + len(body).to_bytes(2, "big") + bytes(4) + body  # masked with zeros
        most = 0
        with suppress(ConnectionError):  # it stands still, and then it is cut off
            while True:
                line.sendall(frame)
                most = max(most, *(conversation.waiting for conversation in list(made.conversations)), 0)
        assert 0 < most <= 26
        until(lambda: made.sessions == 0)
        assert 'clearline_sessions_closed_total{reason="client does not read"} 1.0' in get(address, "/metrics")[1]
        assert asyncio.run(talk(address, samples(3)))[1][-1] == {"type": "end"}


def test_clients_that_vanish_leave_nothing_and_harm_nobody():
    async def vanish(address, i):
        socket = await connect(f"ws://{address}/api/pcm")
        for _ in range(i % 4):
            await socket.send(samples(3).tobytes())
        socket.transport.abort()  # no close frame: as when the process is killed

    async def scenario(address):
        neighbour = asyncio.create_task(talk(address, samples(60)))
        await asyncio.gather(*(vanish(address, i) for i in range(40)))
        sound, said, _ = await neighbour
        np.testing.assert_array_equal(np.frombuffer(sound, "<i2"), np.rint(samples(60) / 2).astype("<i2"))
        return said[-1]

    with running(seconds=0.002) as (address, made):
        assert asyncio.run(scenario(address)) == {"type": "end"}
        until(lambda: made.sessions == 0)


def test_tokens_and_origins_over_the_wire():
    async def refused(url, **keywords) -> int:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url, **keywords)
        return refusal.value.response.status_code

    async def scenario(address):
        assert await refused(f"ws://{address}/api/pcm") == 401
        assert await refused(f"ws://{address}/api/chat?token=wrong-and-long-enough") == 401
        assert await refused(f"ws://{address}/api/pcm?token={TOKEN}", origin="https://evil.example") == 403
        sound, _, _ = await talk(address, samples(2), f"/api/pcm?token={TOKEN}", origin=f"http://{address}")
        assert len(sound) == 2 * 2 * FRAME
        async with connect(f"ws://anyone:{TOKEN}@{address}/api/chat") as socket:
            assert await socket.recv() == bytes(9)

    with running(access=Access(token=TOKEN)) as (address, _):
        asyncio.run(scenario(address))
        assert get(address, "/metrics")[0] == 401
        assert get(address, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_tls():
    context, fingerprint = self_signed("127.0.0.1")
    assert fingerprint
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    async def scenario(address):
        async with connect(f"wss://{address}/api/pcm", ssl=trusting) as socket:
            return json.loads(await socket.recv())["type"]

    with running(tls=context) as (address, _):
        assert asyncio.run(scenario(address)) == "ready"


def test_too_many_connections():
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as one, connect(f"ws://{address}/api/pcm") as two:
            await asyncio.gather(one.recv(), two.recv())
            with pytest.raises(InvalidStatus) as refusal:
                await connect(f"ws://{address}/api/pcm")
            return refusal.value.response.status_code

    with running(connections=2) as (address, _):
        assert asyncio.run(scenario(address)) == 503


def test_a_broken_model_is_told():
    with running(hub(open_engine=lambda config: Halver(fails_at=3 if config.seed == 9 else None))) as (address, _):
        _, said, socket = asyncio.run(talk(address, samples(9), "/api/pcm?seed=9"))
    assert said[-1] == {"type": "error", "code": "failed", "message": "the engine broke"} and socket.close_code == 1011


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /health HTTP/1.1\r\nHost: localh", b"GET /api/pcm HTTP/1.1\r\nUpgrade: websocket\r\n"]
)
def test_who_connects_and_asks_for_nothing_is_let_go(beginning, monkeypatch):
    monkeypatch.setattr("clearline.server.sockets.FIRST_REQUEST_SECONDS", 0.2)
    with running() as (address, _):
        host, port = address.split(":")
        with sockets.create_connection((host, int(port)), timeout=60) as line:
            line.sendall(beginning)
            with suppress(ConnectionResetError):
                assert line.recv(100) == b""
        # One that asked in time, and for a conversation, is not cut off by the same clock.
        assert len(asyncio.run(talk(address, samples(20)))[0]) == 20 * 2 * FRAME


def test_a_client_that_does_not_take_the_close_is_cut_off(monkeypatch):
    """The server has said goodbye; the client neither answers nor closes."""
    monkeypatch.setattr("clearline.server.sockets.LINGER_SECONDS", 0.2)
    with running() as (address, made), opened(address) as line:
        line.sendall(b"\x81\x83" + bytes(4) + b"bad")  # a text message that is no JSON
        received = b""
        with suppress(ConnectionResetError):
            while data := line.recv(65_536):
                received += data
        assert b"bad_message" in received
        until(lambda: made.sessions == 0)
