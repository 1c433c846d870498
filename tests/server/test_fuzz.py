"""Broken and malicious clients: no message whatever makes a protocol or a connection fall over, or leaves anything behind."""

import asyncio
import itertools
import json
import random
from contextlib import suppress

import pytest
from helpers.fuzz import REAL, connection, fed, resident_bytes
from helpers.serving import Halver, hub
from helpers.socket import Socket
from helpers.virtual import run_virtual
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.config import GenerationConfig
from clearline.errors import ClearlineError, ConfigError
from clearline.server.connection import Connection
from clearline.server.protocols import PcmProtocol
from clearline.server.settings import kyutai_settings
from clearline.server.settings import settings as pcm_settings

sixty = settings(max_examples=60)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", REAL)
def test_damaged_messages(name):
    became = fed(name, 3000, seed=7)
    assert became.total() == 3000 and became["refused"] > 100  # it was damaged enough,
    assert became["Heard"] > 100  # and not so much that nothing came through


@pytest.mark.parametrize("name", REAL)
@sixty
@given(messages=st.lists(st.binary(max_size=400) | st.text(max_size=100) | ANY_JSON.map(json.dumps), max_size=6))
def test_any_messages_at_all(name, messages):
    protocol = REAL[name][0]()
    for message in messages:
        with suppress(ClearlineError):
            protocol.parse(message)


@pytest.mark.parametrize("field", ["type", "event", "audio", "session", "start", "media", "mark"])
@sixty
@given(value=ANY_JSON)
def test_any_value_in_a_known_place(field, value):
    for name in ("pcm", "openai", "twilio"):
        protocol = REAL[name][0]()
        for frame in (
            {},
            {"type": "session.update"},
            {"type": "input_audio_buffer.append"},
            *({"event": e} for e in ("start", "media", "mark")),
        ):
            with suppress(ClearlineError):
                protocol.parse(json.dumps(frame | {field: value}))


@sixty
@given(st.dictionaries(st.text() | st.sampled_from(["seed", "top_k", "temperature", "preset"]), st.text()))
def test_any_query_is_settings_or_a_refusal(query):
    for read in (pcm_settings, kyutai_settings):
        with suppress(ConfigError):
            assert isinstance(read(query, GenerationConfig()), GenerationConfig)


@pytest.mark.parametrize("name", REAL)
def test_a_broken_client_takes_nothing_with_it(name):
    """Whole connections with broken clients, beside one that is well and gets its 250 frames in time."""
    make, real = REAL[name]
    rng = random.Random(11)

    async def attack(made) -> int | None:
        socket = Socket()
        socket.says(*itertools.islice(connection(real, rng), rng.randrange(40)))
        if rng.random() < 0.5:
            socket.says(None)
        await Connection(socket, make(), made).serve({})
        return socket.code

    async def scenario(loop):
        made = hub(loop=loop, seconds=0.002, workers=1, stalled_seconds=2, start_seconds=1)
        before = asyncio.all_tasks()
        good = Socket()
        serving = asyncio.create_task(Connection(good, PcmProtocol(), made).serve({}))
        codes = []
        for i in range(250):
            good.says(bytes(3840))
            if i % 10 == 0:
                codes.append(asyncio.create_task(attack(made)))
            await asyncio.sleep(0.08)
        good.says(json.dumps({"type": "end"}))
        await serving
        codes = await asyncio.gather(*codes)
        assert made.sessions == 0 and Halver.open == 0 and asyncio.all_tasks() == before
        made.shut_down()
        return good, codes

    good, codes = run_virtual(scenario)
    assert good.frames == 250 and good.objects[-1] == {"type": "end"}
    assert [message["missed"] for message in good.objects if message["type"] == "stats"][-1] == 0
    assert 1007 in codes and set(codes) <= {None, 1000, 1007, 1008}


def test_memory_does_not_grow_with_messages():
    for name in REAL:
        fed(name, 1000, seed=1)
    before = resident_bytes()
    for name in REAL:
        fed(name, 3000, seed=2)
    assert resident_bytes() - before < 8e6  # 15 000 messages of up to 8 kB
