"""Kyutai's protocol over the wire: a minimal client always, the published `moshi.client` where it is installed."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sphn
from helpers.serving import FRAME, running
from websockets.asyncio.client import connect

from clearline.server.access import Access

TOKEN = "a-token-of-enough-length"
SCRIPT = Path(__file__).parent / "moshi_client.py"


def oracle() -> str | None:
    """An interpreter that has Kyutai's `moshi`: this one, or $CLEARLINE_ORACLE_PYTHON."""
    if importlib.util.find_spec("moshi"):
        return sys.executable
    return os.environ.get("CLEARLINE_ORACLE_PYTHON")


def test_a_minimal_client():
    """What `moshi.client` does, in twenty lines: Opus frames out, handshake, Opus and text back."""
    tone = (0.4 * np.sin(2 * np.pi * 440 * np.arange(25 * FRAME) / 24_000)).astype(np.float32)

    async def scenario(address):
        writer, reader, heard, text = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000), [], b""
        async with connect(f"ws://{address}/api/chat?text_temperature=0.6&text_seed=3&pad_mult=0") as socket:
            assert await socket.recv() == bytes(9)
            for frame in tone.reshape(-1, FRAME):
                await socket.send(b"\x01" + writer.append_pcm(frame))
            while len(text) < 24:
                message = await asyncio.wait_for(socket.recv(), 60)
                assert message[0] in (1, 2)
                if message[0] == 1:
                    heard.append(reader.append_bytes(message[1:]))
                else:
                    text += message[1:]
        return np.concatenate(heard), text.decode()

    with running() as (address, _):
        heard, text = asyncio.run(scenario(address))
    assert text.startswith("abcdefghij")
    middle = heard[4 * FRAME : 20 * FRAME]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.fft.rfftfreq(len(middle), 1 / 24_000)[spectrum.argmax()] == pytest.approx(440, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.2, abs=0.05)  # half of what was said


@pytest.mark.oracle
@pytest.mark.skipif(oracle() is None, reason="moshi is not installed; name an interpreter that has it in CLEARLINE_ORACLE_PYTHON")
@pytest.mark.parametrize("secured", [False, True])
def test_the_published_client(secured):
    interpreter = oracle()
    assert interpreter is not None
    with running(access=Access(token=TOKEN) if secured else Access()) as (address, made):
        url = f"ws://any:{TOKEN}@{address}" if secured else f"ws://{address}"
        found = subprocess.run([interpreter, str(SCRIPT), url, "25"], capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr[-2000:]
        assert made.sessions == 0 or not made.draining
    seen = json.loads(found.stdout.splitlines()[-1])
    assert seen["text"].startswith("abcdefghijklmnopqrst")
    assert seen["peak_hz"] == pytest.approx(440, abs=2) and seen["loudness"] == pytest.approx(0.2, abs=0.05)
    # The one thing it does not know is the handshake, of which it warns with Kyutai's own server too.
    assert [entry for entry in seen["log"] if entry[0] != "info"] == [["warning", "unknown message kind 0"]]
