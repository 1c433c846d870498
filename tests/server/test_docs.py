"""The clients in docs/server.md and docs/protocols.md, run against a server."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.serving import FRAME, running

DOCS = Path(__file__).parents[2] / "docs"


def example(page: str) -> dict:
    """What the Python blocks of a page define."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    defined: dict = {}
    exec(compile("\n".join(blocks), page, "exec"), defined)
    return defined


def test_how_much_room_there_is():
    with running(sessions=7) as (address, _):
        assert example("server.md")["room"](f"http://{address}") == 7


def test_the_whole_client():
    pcm = (np.arange(6 * FRAME) % 20_000).astype("<i2")
    with running() as (address, _):
        sound, text = asyncio.run(asyncio.wait_for(example("protocols.md")["talk"](pcm, f"ws://{address}/api/pcm?seed=7"), 60))
    np.testing.assert_array_equal(sound, np.rint(pcm / 2).astype("<i2"))
    assert text == "abcdef"
    with running(sessions=1) as (address, made), pytest.raises(RuntimeError, match="try again"):
        made._opening["halver"] = 1
        asyncio.run(asyncio.wait_for(example("protocols.md")["talk"](pcm, f"ws://{address}/api/pcm"), 60))
        made._opening.clear()


def test_the_client_of_openai(monkeypatch):
    """It speaks three words and is quiet for two seconds; the pauses of the example are left out."""
    pytest.importorskip("openai")
    from helpers.serving import NO_CODES, Halver, hub

    from clearline.generate import Frame

    class Says(Halver):
        def step(self, pcm):
            super().step(pcm)
            return Frame(pcm * 0, " word" if self.frames <= 3 else "", 5, NO_CODES, NO_CODES, None)

    pcm = np.zeros(40 * FRAME, "<i2")
    with running(hub(open_engine=lambda config: Says(), name="nano")) as (address, _):
        ask = example("protocols.md")["ask"]
        ask.__globals__["asyncio"] = Hurried()
        assert asyncio.run(asyncio.wait_for(ask(pcm, f"http://{address}/v1"), 60)) == "word word word"


class Hurried:
    """asyncio, in which a pause takes no time."""

    def __getattr__(self, name: str):
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
