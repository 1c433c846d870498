"""OpenAI's Realtime protocol: the published `openai` client over the wire, and every event against its own schema."""

import asyncio
import base64
import json

import numpy as np
import pytest
from helpers.serving import FRAME, Halver, hub, running

from clearline.config import GenerationConfig
from clearline.errors import ConfigError
from clearline.server.access import Access
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.protocols import Answer, Heard, ProtocolError, Welcome
from clearline.server.protocols.openai import QUIET_FRAMES, OpenAIProtocol
from clearline.server.state import End

openai = pytest.importorskip("openai")
from openai.types.realtime import RealtimeServerEvent  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402
from websockets.exceptions import ConnectionClosedError  # noqa: E402

TOKEN = "a-token-of-enough-length"
VAD = {"type": "server_vad"}
SCHEMA: TypeAdapter = TypeAdapter(RealtimeServerEvent)


def protocol() -> OpenAIProtocol:
    made = OpenAIProtocol(24_000)
    checked(made.welcome(Welcome(3, "nano", GenerationConfig(), "default", 24_000, FRAME)))
    return made


def checked(messages) -> list[dict]:
    """The events, each valid by the published client's own types."""
    events = [json.loads(message) for message in messages]
    for event in events:
        assert type(SCHEMA.validate_python(event)).model_fields["type"].annotation.__args__ == (event["type"],)
    return events


def said(made: OpenAIProtocol, **event: object) -> dict:
    meaning = made.parse(json.dumps(event))
    assert isinstance(meaning, Answer)
    (answer,) = checked(meaning.messages)
    return answer


def tone(frames: int) -> np.ndarray:
    return (8000 * np.sin(np.arange(frames * FRAME) * 2 * np.pi * 440 / 24_000)).astype("<i2")


async def conversation(address: str, frames: int, **session) -> tuple[list, np.ndarray, str]:
    """What the documentation of the client does: connect, update the session, append sound, read events."""
    client = openai.AsyncOpenAI(api_key=TOKEN, base_url=f"http://{address}/v1")
    events, sound, text = [], b"", ""
    async with client.realtime.connect(model="halver") as connection:
        await connection.session.update(session={"type": "realtime", **session})
        pcm = tone(frames)
        for i in range(0, len(pcm), 960):
            audio = base64.b64encode(pcm[i : i + 960].tobytes()).decode()
            await connection.input_audio_buffer.append(audio=audio)
        async for event in connection:
            events.append(event)
            if event.type == "response.output_audio.delta":
                sound += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.delta":
                text += event.delta
            if len(sound) >= 2 * frames * FRAME:
                break
    await client.close()
    return events, np.frombuffer(sound, "<i2"), text


def test_the_published_client():
    with running(access=Access(token=TOKEN)) as (address, _):
        work = conversation(
            address, 20, output_modalities=["audio"], audio={"input": {"format": {"type": "audio/pcm", "rate": 24000}}}
        )
        events, sound, text = asyncio.run(asyncio.wait_for(work, 60))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["session.created", "session.updated"] and "error" not in kinds
    first = kinds.index("response.created")
    assert kinds[first + 1 : first + 4] == ["response.output_item.added", "conversation.item.added", "response.content_part.added"]
    assert text == "abcdefghijklmnopqrst"
    np.testing.assert_array_equal(sound, np.rint(tone(20) / 2).astype("<i2"))
    assert events[0].session.model == "halver" and events[0].session.audio.output.format.rate == 24_000


def test_the_published_client_is_refused_in_words():
    async def scenario(address):
        client = openai.AsyncOpenAI(api_key=TOKEN, base_url=f"http://{address}/v1")
        async with client.realtime.connect(model="gpt-realtime") as connection:
            wrong_model = await connection.recv()
        async with client.realtime.connect(model="halver", extra_query={"seed": "5", "temperature": "0.7"}) as first:
            created = await first.recv()
            await first.response.create()
            unknown = await first.recv()
            async with client.realtime.connect(model="halver") as second:
                no_room = await second.recv()
        await client.close()
        return wrong_model, created, unknown, no_room

    with running(sessions=1) as (address, _):
        wrong_model, created, unknown, no_room = asyncio.run(asyncio.wait_for(scenario(address), 60))
    assert "no model 'gpt-realtime' here; this server has 'halver'" in wrong_model.error.message
    assert created.type == "session.created"
    assert unknown.error.code == "unsupported_event" and "response.create" in unknown.error.message
    assert no_room.error.code == "refused" and "try again in 10 seconds" in no_room.error.message

    async def stranger(address):
        client = openai.AsyncOpenAI(api_key="wrong", base_url=f"http://{address}/v1")
        with pytest.raises(Exception, match="401"):
            async with client.realtime.connect(model="halver"):
                pass
        await client.close()

    with running(access=Access(token=TOKEN)) as (address, _):
        asyncio.run(asyncio.wait_for(stranger(address), 60))


def test_a_broken_model_ends_the_response_and_says_why():
    async def scenario(address):
        client = openai.AsyncOpenAI(api_key="none", base_url=f"http://{address}/v1")
        async with client.realtime.connect(model="halver") as connection:
            await connection.input_audio_buffer.append(audio=base64.b64encode(tone(6).tobytes()).decode())
            events = []
            with pytest.raises(ConnectionClosedError, match="1011"):
                async for event in connection:
                    events.append(event)
        await client.close()
        return events

    engines = iter([Halver() for _ in range(3)])
    with running(hub(open_engine=lambda config: next(engines, None) or Halver(fails_at=2))) as (address, _):
        events = asyncio.run(asyncio.wait_for(scenario(address), 60))
    assert [event.type for event in events][-2:] == ["response.done", "error"]
    assert events[-2].response.status == "incomplete" and events[-1].error.message == "the engine broke"


def test_responses_are_cut_where_the_model_is_quiet():
    made, sine, silence = protocol(), np.sin(np.arange(FRAME)) * 0.1, np.zeros(FRAME)
    kinds, transcripts, sound = [], [], 0
    for frame, (pcm, text) in enumerate(
        [(silence, "")] * 3 + [(silence, " Good")] + [(sine, "")] * 5 + [(silence, " day")] + [(silence, "")] * 60
        + [(sine, "")] * 2 + [(silence, "")] * 30
    ):  # fmt: skip
        for event in checked(made.reply(Reply(frame, made.encode(pcm), text))):
            sound += event["type"] == "response.output_audio.delta"
            kinds.append(event["type"])
            if event["type"] == "response.done":
                (item,) = event["response"]["output"]
                transcripts.append(item["content"][0]["transcript"])
                assert event["response"]["status"] == item["status"] == "completed"
    assert transcripts == ["Good day", ""]
    assert kinds.count("response.created") == 2 and kinds[-1] == "response.done"
    assert sound == (1 + 5 + 1 + QUIET_FRAMES) + (2 + QUIET_FRAMES)


def test_events_have_names_of_their_own():
    made, names = protocol(), []
    for frame in range(40):
        events = checked(made.reply(Reply(frame, made.encode(np.full(FRAME, 0.5)), "x")))
        names += [event["event_id"] for event in events]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind, bytes_", [("audio/pcm", 4800), ("audio/pcmu", 800), ("audio/pcma", 800)])
def test_formats(kind, bytes_):
    made = protocol()
    wanted = {"format": {"type": kind}}
    updated = said(made, type="session.update", session={"type": "realtime", "audio": {"input": wanted, "output": wanted}})
    assert updated["session"]["audio"]["input"]["format"]["type"] == kind
    assert updated["session"]["audio"]["output"]["format"]["type"] == kind
    heard = made.parse(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(bytes_)).decode()}))
    assert isinstance(heard, Heard) and len(heard.pcm) == 2400
    *_, delta = checked(made.reply(Reply(0, made.encode(tone(1) / 32768), "")))
    assert len(base64.b64decode(delta["delta"])) == (3840 if kind == "audio/pcm" else 640)


@pytest.mark.parametrize(
    "session, param",
    [
        ("all", "session"),
        ({"instructions": "Be brief."}, "session.instructions"),
        ({"output_modalities": ["text"]}, "session.output_modalities"),
        ({"audio": []}, "session.audio"),
        ({"audio": {"input": 5}}, "session.audio.input"),
        ({"audio": {"output": {"voice": "marin"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 1.2}}}, "session.audio.output.speed"),
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "session.audio.input.transcription"),
        ({"audio": {"input": {"turn_detection": None}}}, "session.audio.input.turn_detection"),
        ({"audio": {"input": {"turn_detection": VAD | {"create_response": False}}}}, "session.audio.input.turn_detection"),
        ({"audio": {"input": {"format": {"type": "audio/mp3"}}}}, "session.audio.input.format"),
        ({"audio": {"input": {"format": "pcm16"}}}, "session.audio.input.format"),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "session.audio.output.format.rate"),
        ({"type": "transcription"}, "session.type"),
        ({"format": "mp3"}, "session.format"),
        ({"audio": {"output": {"turn_detection": VAD}}}, "session.audio.output.turn_detection"),
        ({"model": "gpt-realtime"}, "session.model"),
        ({"surprise\ud800": 1}, "session.surprise\ud800"),
    ],
)  # fmt: skip
def test_updates_that_cannot_be_had(session, param):
    made = protocol()
    both = {"audio": {"input": {"format": {"type": "audio/pcmu"}}}} | session if isinstance(session, dict) else session
    meaning = made.parse(json.dumps({"type": "session.update", "event_id": "mine", "session": both}))
    assert isinstance(meaning, Answer)
    answer = json.loads(meaning.messages[0])
    assert answer["type"] == "error" and answer["error"]["param"] == param and answer["error"]["event_id"] == "mine"
    updated = said(made, type="session.update", session={})  # nothing of it was taken over
    assert updated["session"]["audio"]["input"]["format"]["type"] == "audio/pcm"


def test_updates_that_change_nothing_are_fine():
    session = {
        "type": "realtime", "model": "nano", "instructions": "", "tools": [], "tool_choice": None, "tracing": None,
        "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.5}, "noise_reduction": None}, "output": None},
    }  # fmt: skip
    updated = said(protocol(), type="session.update", session=session)
    assert updated["session"]["audio"]["input"]["turn_detection"] == {"type": "server_vad"}


def test_formats_are_settled_before_there_is_sound():
    made = protocol()
    made.parse(json.dumps({"type": "input_audio_buffer.append", "audio": ""}))
    answer = said(made, type="session.update", session={"audio": {"output": {"format": {"type": "audio/pcmu"}}}})
    assert answer["error"]["param"] == "session.audio.output.format"
    same = said(made, type="session.update", session={"audio": {"output": {"format": {"type": "audio/pcm"}}}})
    assert same["type"] == "session.updated"


@pytest.mark.parametrize("audio", [None, 5, "%%%", "é", base64.b64encode(b"odd").decode()])
def test_sound_that_is_none(audio):
    answer = said(protocol(), type="input_audio_buffer.append", audio=audio)
    assert (answer["type"], answer["error"]["code"], answer["error"]["param"]) == ("error", "invalid_value", "audio")


@pytest.mark.parametrize("kind", ["response.create", "input_audio_buffer.commit", "", None, [], 7])
def test_events_that_are_not_there(kind):
    assert said(protocol(), type=kind)["error"]["code"] == "unsupported_event"


@pytest.mark.parametrize("message", [b"bytes", "no json", "[]"])
def test_what_is_no_event_ends_the_conversation(message):
    with pytest.raises(ProtocolError):
        protocol().parse(message)


def test_notices_and_ends():
    made = protocol()
    (notice,) = checked(made.notice(Notice("draining", "soon")))
    assert notice["error"]["code"] == "draining"
    assert made.farewell(Ended(End.FINISHED, "")) == []
    (error,) = checked(made.farewell(Ended(End.BAD_MESSAGE, "what?")))
    assert error["error"] | {"type": "invalid_request_error", "message": "what?"} == error["error"]


def test_the_address():
    made = protocol()
    assert made.model({"model": "nano", "seed": "4"}) == "nano" and made.model({}) is None
    assert made.settings({"model": "nano", "seed": "4"}, GenerationConfig()).seed == 4
    assert made.settings({}, GenerationConfig()) == GenerationConfig()
    with pytest.raises(ConfigError, match="no setting"):
        made.settings({"model": "nano", "voice": "marin"}, GenerationConfig())
