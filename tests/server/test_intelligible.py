"""A recorded question over the wire, and the judge on the captured reply: it can be understood, and it says its text."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.serving import running
from helpers.wire import RATE, judged

import clearline
from clearline.audio import read_audio, to_mono
from clearline.server.access import Access
from clearline.server.limits import Limits
from clearline.server.run import Options, make_hub

connect = pytest.importorskip("websockets.asyncio.client").connect
EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 5  # of silence after the question, in which it answers


async def ask(address: str, samples: np.ndarray) -> tuple[np.ndarray, str]:
    """Say int16 samples at 24 kHz; the reply and its text."""
    sound, text = [], ""
    async with connect(f"ws://{address}/api/pcm?preset=greedy") as socket:
        for start in range(0, len(samples), 1920):
            await socket.send(samples[start : start + 1920].tobytes())
        await socket.send(json.dumps({"type": "end"}))
        async for message in socket:
            if isinstance(message, bytes):
                sound.append(np.frombuffer(message, "<i2"))
            elif (said := json.loads(message))["type"] == "text":
                text += said["text"]
    return np.concatenate(sound), text


@pytest.fixture(scope="module", params=["hello", "capital"])
def reply(request) -> tuple[np.ndarray, str]:
    """Sound and text of nano's reply to an example, over /api/pcm."""
    recording = read_audio(EXAMPLES / f"{request.param}.wav")
    question = np.concatenate([to_mono(recording.samples, recording.rate, RATE), np.zeros(SECONDS * RATE, np.float32)])
    samples = np.rint(np.clip(question, -1, 1) * 32767).astype("<i2")
    model = clearline.load("nano", threads=1)
    hub = make_hub({"nano": model}, Options("127.0.0.1", Access(), Limits(load=1e6), workers=1))
    with running(hub) as (address, _):
        return asyncio.run(asyncio.wait_for(ask(address, samples), 120))


def test_the_reply_can_be_understood_and_says_its_text(reply):
    sound, text = reply
    found = judged(sound, text)
    assert len(text.split()) >= 5 and found.verdict in ("clear", "degraded") and found.says_text is True, found.evidence


def test_the_judge_would_have_noticed(reply):
    sound, text = reply
    assert judged(sound, "the weather is fine and warm today").says_text is False
    assert judged(sound[::-1].copy(), text).verdict == "garbled"
    assert judged(0 * sound, text).verdict == "silent"
