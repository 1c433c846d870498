"""Twilio Media Streams: a call as Twilio plays it, over the wire, and the messages one by one."""

import asyncio
import base64
import json

import numpy as np
import pytest
import soundfile
from helpers.serving import FRAME, Halver, hub, running, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clearline.config import GenerationConfig
from clearline.errors import ConfigError
from clearline.server.access import Access
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols import EndOfInput, Heard, ProtocolError, Start
from clearline.server.protocols.twilio import MARK_FRAMES, MOST_MARKS, TwilioProtocol
from clearline.server.state import End

TOKEN = "a-token-of-enough-length"
STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}


def start(**wishes: str) -> dict:
    """As in Twilio's documentation."""
    return {
        "event": "start", "sequenceNumber": "1", "streamSid": STREAM,
        "start": {
            "accountSid": "AC0", "streamSid": STREAM, "callSid": "CA0",
            "tracks": ["inbound"], "mediaFormat": FORMAT, "customParameters": wishes,
        },
    }  # fmt: skip


def media(payload: bytes, track: str = "inbound") -> dict:
    body = {"track": track, "chunk": "2", "timestamp": "5", "payload": base64.b64encode(payload).decode()}
    return {"event": "media", "sequenceNumber": "3", "streamSid": STREAM, "media": body}


def mu_law(pcm: np.ndarray, path) -> bytes:
    soundfile.write(path, pcm, 8000, format="RAW", subtype="ULAW")
    return path.read_bytes()


def tone(seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(8000 * seconds)) / 8000)


def test_a_call(tmp_path):
    """20 ms messages with both tracks, marks returned as they would be; the reply is the caller's tone, half as loud."""
    payload = mu_law(tone(2.0), tmp_path / "call.raw")
    seeds = []

    def opener(config):
        seeds.append(config.seed)
        return Halver()

    async def scenario(address):
        heard, marks = b"", []
        async with connect(f"ws://{address}/api/twilio/{TOKEN}") as socket:
            await socket.send(json.dumps(CONNECTED))
            await socket.send(json.dumps(start(seed="41")))
            for i in range(0, len(payload), 160):
                await socket.send(json.dumps(media(payload[i : i + 160])))
                await socket.send(json.dumps(media(bytes(160), "outbound")))
            await socket.send(json.dumps({"event": "dtmf", "streamSid": STREAM, "dtmf": {"track": "inbound_track", "digit": "1"}}))
            while len(heard) < len(payload) - 160:
                event = json.loads(await asyncio.wait_for(socket.recv(), 60))
                assert event["streamSid"] == STREAM
                if event["event"] == "media":
                    heard += base64.b64decode(event["media"]["payload"])
                elif event["event"] == "mark":
                    marks.append(event["mark"]["name"])
                    await socket.send(json.dumps(event))
            await socket.send(json.dumps({"event": "stop", "streamSid": STREAM, "stop": {}}))
            with pytest.raises(ConnectionClosed):
                while True:
                    event = json.loads(await asyncio.wait_for(socket.recv(), 60))
                    marks += [event["mark"]["name"]] if event["event"] == "mark" else []
            return heard, marks, socket.close_code

    with running(hub(open_engine=opener), access=Access(token=TOKEN)) as (address, made):
        heard, marks, code = asyncio.run(scenario(address))
        until(lambda: made.sessions == 0)
    assert seeds[-1] == 41 and marks == ["4", "9", "14", "19", "24"] and code == 1000
    (tmp_path / "reply.raw").write_bytes(heard)
    reply, _ = soundfile.read(tmp_path / "reply.raw", format="RAW", subtype="ULAW", samplerate=8000, channels=1)
    middle = reply[1600:14_400]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() * 8000 / len(middle) == pytest.approx(440, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.25, abs=0.02)


def test_strangers():
    async def refused(address, path) -> int:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://{address}{path}")
        return refusal.value.response.status_code

    async def scenario(address):
        return [await refused(address, path) for path in ("/api/twilio", "/api/twilio/", "/api/twilio/wrong", f"/api/pcm/{TOKEN}")]

    with running(access=Access(token=TOKEN)) as (address, _):
        assert asyncio.run(scenario(address)) == [401] * 4


def test_no_room_closes_with_the_code():
    async def scenario(address):
        async with connect(f"ws://{address}/api/pcm") as first:
            await first.recv()
            async with connect(f"ws://{address}/api/twilio") as second:
                await second.send(json.dumps(start()))
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(second.recv(), 60)
                return second.close_code

    with running(sessions=1) as (address, _):
        assert asyncio.run(scenario(address)) == 1013


def started(**wishes: str) -> TwilioProtocol:
    made = TwilioProtocol(24_000)
    meaning = made.parse(json.dumps(start(**wishes)))
    assert isinstance(meaning, Start) and meaning.query == wishes
    return made


def test_what_the_messages_mean():
    made = started(seed="3")
    assert made.settings({"seed": "3"}, GenerationConfig()).seed == 3
    heard = made.parse(json.dumps(media(b"\xff" * 160)))
    assert isinstance(heard, Heard) and heard.pcm.shape == (480,) and not heard.pcm.any()
    assert made.parse(json.dumps(media(b""))) is None and made.parse(json.dumps(media(b"\xff" * 160, "outbound"))) is None
    assert made.parse(json.dumps(CONNECTED)) is None
    assert isinstance(made.parse(json.dumps({"event": "stop"})), EndOfInput)
    assert made.notice(Notice("draining", "soon")) == made.report({}) == made.farewell(Ended(End.REFUSED, "full"), 3) == []
    with pytest.raises(ConfigError, match="no setting 'sead'"):
        made.settings({"sead": "3"}, GenerationConfig())


@pytest.mark.parametrize(
    "event, message",
    [
        ({"event": "begin"}, "no event 'begin'"), ({}, "no event None"), ([], "JSON object"), (media(b"x"), "media before start"),
        ({"event": "start"}, "streamSid"), ({"event": "start", "start": {"streamSid": "x" * 101}}, "streamSid"),
        ({"event": "start", "start": {"streamSid": "M", "mediaFormat": FORMAT | {"sampleRate": 16_000}}}, "mediaFormat must be"),
        ({"event": "start", "start": {"streamSid": "M", "mediaFormat": FORMAT, "customParameters": {"a": 3}}}, "customParameters"),
    ],
)  # fmt: skip
def test_messages_that_mean_nothing(event, message):
    with pytest.raises(ProtocolError, match=message):
        TwilioProtocol(24_000).parse(json.dumps(event))


@pytest.mark.parametrize("payload", [None, 3, "%%%", "é"])
def test_payloads_that_are_none(payload):
    with pytest.raises(ProtocolError, match=r"media\.payload"):
        started().parse(json.dumps({"event": "media", "media": {"track": "inbound", "payload": payload}}))


def test_a_stream_starts_once_and_is_not_binary():
    with pytest.raises(ProtocolError, match="starts once"):
        started().parse(json.dumps(start()))
    with pytest.raises(ProtocolError, match="text"):
        started().parse(b"\x00")
    with pytest.raises(ConfigError, match="16000 Hz"):
        TwilioProtocol(16_000)


def kinds(messages) -> list[str]:
    return [json.loads(message)["event"] for message in messages]


def test_a_player_that_falls_behind_is_cleared_once():
    made = started()
    sent = [kinds(made.reply(Reply(frame, b"\xff" * 640, "text"))) for frame in range(60)]
    cleared = [frame for frame, events in enumerate(sent) if "clear" in events]
    # It never returns a mark: 6 of them are out after 30 frames, and again after 30 more.
    assert cleared == [(MOST_MARKS + 1) * MARK_FRAMES] and sent[cleared[0]][:2] == ["clear", "media"]
    assert sent[3] == ["media"] and sent[4] == ["media", "mark"]


def test_a_player_that_keeps_up_is_never_cleared():
    made, out = started(), []
    for frame in range(300):
        for message in made.reply(Reply(frame, b"\xff" * 640, "")):
            event = json.loads(message)
            assert event["event"] != "clear"
            if event["event"] == "mark":
                out.append(message)
        if len(out) > 2:  # they come back late, in their order, among some that are not ours
            made.parse(json.dumps({"event": "mark", "mark": {"name": "somebody's"}}))
            made.parse(out.pop(0))
    assert made.reply(Reply(300, b"", "text")) == []


def test_frames_of_the_codec_make_whole_telephone_frames():
    made = started()
    assert [len(made.encode(np.zeros(FRAME, np.float32))) for _ in range(10)] == [640] * 10
