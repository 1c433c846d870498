"""One connection in virtual time, with a socket that is two queues: stalls, slow readers, floods, and every way to part."""

import asyncio
import json

import numpy as np
import pytest
from helpers.serving import FRAME, Halver, hub
from helpers.socket import Socket
from helpers.virtual import run_virtual
from starlette.websockets import WebSocketState

from clearline.config import GenerationConfig
from clearline.errors import ConfigError
from clearline.server.connection import Connection
from clearline.server.protocols import PcmProtocol
from clearline.server.protocols.twilio import TwilioProtocol
from clearline.server.state import End

SOUND = np.full(FRAME, 2000, "<i2").tobytes()
BYE = json.dumps({"type": "end"})


def connected(made, socket, protocol=None) -> asyncio.Task:
    return asyncio.create_task(Connection(socket, protocol or PcmProtocol(), made).serve({}))


def run(scenario, **keywords):
    """Run `await scenario(hub, clock)` in virtual time; afterwards nothing is left."""

    async def inside(loop):
        made = hub(loop=loop, **keywords)
        try:
            before = asyncio.all_tasks()
            result = await scenario(made, loop.time)
            assert made.sessions == 0 and Halver.open == 0 and asyncio.all_tasks() == before
            return result
        finally:
            made.shut_down()

    return run_virtual(inside)


def test_a_microphone_that_stalls():
    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket)
        for _ in range(10):  # it comes and goes, within the limit
            socket.says(SOUND)
            await asyncio.sleep(29)
        await asyncio.wait_for(serving, 60)
        return socket, clock() - started

    socket, seconds = run(scenario)
    assert seconds == pytest.approx(9 * 29 + 30)
    assert socket.frames == 10 and socket.code == 1008
    assert socket.objects[-1]["code"] == "stalled" and "30 seconds; send silence" in socket.objects[-1]["message"]


def test_a_half_open_line():
    """Nothing comes, and nothing that is sent is ever taken: the other machine was switched off."""

    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket)
        socket.says(SOUND, SOUND)
        await asyncio.sleep(1)
        socket.reads.clear()
        await serving
        return clock() - started

    assert run(scenario) == pytest.approx(30 + 10)  # no sound for 30 s, then 10 s to take the last words


def test_who_has_said_everything_is_not_stalled():
    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket)
        socket.says(*[SOUND] * 20, BYE)
        await serving
        return socket, clock() - started

    socket, seconds = run(scenario, seconds=3.0)
    assert seconds == pytest.approx(60) and socket.frames == 20 and socket.objects[-1] == {"type": "end"} and socket.code == 1000


def test_a_slow_reader_is_cut_off_and_its_neighbour_served():
    async def scenario(made, clock):
        deaf, good = Socket(reads=False), Socket()
        leaving = connected(made, deaf)
        await asyncio.sleep(1)
        (stuck,) = made.conversations
        staying = connected(made, good)
        deaf.says(*[SOUND] * 200)
        for _ in range(250):
            good.says(SOUND)
            await asyncio.sleep(0.08)
            assert all(conversation.waiting <= 26 for conversation in made.conversations)
        assert leaving.done() and made.sessions == 1
        good.says(BYE)
        await staying
        (stats,) = [message for message in good.objects if message["type"] == "stats"][-1:]
        return deaf, good, stats, stuck.ended.why

    deaf, good, stats, why = run(scenario, seconds=0.02, workers=1)
    assert why is End.SLOW_READER and deaf.sent == [] and good.frames == 250 and stats["missed"] == 0


def test_a_flood_is_read_at_its_rate():
    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket)
        socket.says(*[b""] * 5000, SOUND, BYE)
        await serving
        return clock() - started, socket.frames

    seconds, frames = run(scenario)
    assert seconds == pytest.approx(4502 / 500) and frames == 1


def test_the_longest_conversation():
    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket)
        while not serving.done():
            socket.says(SOUND)
            await asyncio.sleep(0.08)
        return socket, clock() - started

    socket, seconds = run(scenario, session_seconds=90.0)
    assert seconds == pytest.approx(90, abs=0.1) and socket.objects[-1]["code"] == "expired" and socket.code == 1008
    assert "1.5 minutes" in socket.objects[-1]["message"] and socket.frames == pytest.approx(1125, abs=2)


@pytest.mark.parametrize("while_stepping", [False, True])
def test_a_client_that_vanishes(while_stepping):
    async def scenario(made, clock):
        socket = Socket()
        serving = connected(made, socket)
        socket.says(*[SOUND] * 5)
        await asyncio.sleep(0.25 if while_stepping else 2)
        assert made.sessions == 1
        socket.application_state = WebSocketState.DISCONNECTED
        socket.says(None)
        (left,) = made.conversations
        await serving
        await asyncio.sleep(1)
        assert left.ended.why is End.LEFT
        return socket.frames

    assert run(scenario, seconds=0.1) == (2 if while_stepping else 5)


def test_a_model_whose_state_cannot_be_made():
    engines = iter([Halver(), Halver(), Halver()])  # for the warm-up

    def opener(config):
        try:
            return next(engines)
        except StopIteration:
            raise MemoryError("no memory for another conversation") from None

    async def scenario(made, clock):
        socket = Socket()
        await connected(made, socket)
        return socket

    socket = run(scenario, open_engine=opener)
    assert socket.objects == [{"type": "error", "code": "failed", "message": "no memory for another conversation"}]
    assert socket.code == End.FAILED.close_code


def test_a_stream_that_never_starts():
    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket, TwilioProtocol(24_000))
        socket.says(json.dumps({"event": "connected"}))
        await serving
        return socket.code, clock() - started

    assert run(scenario) == (1008, pytest.approx(15))


@pytest.mark.parametrize("message, code", [("no json", 1007), (json.dumps({"event": "stop"}), None), (None, None)])
def test_a_stream_that_starts_badly(message, code):
    async def scenario(made, clock):
        socket = Socket()
        serving = connected(made, socket, TwilioProtocol(24_000))
        socket.says(message)
        await asyncio.wait_for(serving, 1)
        return socket.code

    assert run(scenario) == code


def test_draining_over_a_connection():
    async def scenario(made, clock):
        socket, started = Socket(), clock()
        serving = connected(made, socket)
        socket.says(SOUND)
        await asyncio.sleep(1)
        draining = asyncio.create_task(made.drain())
        await asyncio.sleep(1)
        socket.says(SOUND)
        await draining
        await serving
        return socket, clock() - started

    socket, seconds = run(scenario, drain_seconds=20)
    assert seconds == pytest.approx(21) and socket.frames == 2 and socket.code == 1001
    assert [message["type"] for message in socket.objects if message["type"] in ("notice", "error")] == ["notice", "error"]


def test_the_settings_of_a_client_reach_the_model():
    opened: list[GenerationConfig] = []

    def opener(config):
        opened.append(config)
        return Halver()

    class Odd(PcmProtocol):
        def settings(self, query, base):
            if "bad" in query:
                raise ConfigError("bad is no setting")
            return super().settings(query, base)

    async def scenario(made, clock):
        good, bad, torn = Socket(), Socket(), Socket()
        bad_serving = asyncio.create_task(Connection(bad, Odd(), made).serve([("bad", "1")]))
        good_serving = asyncio.create_task(Connection(good, Odd(), made).serve([("seed", "77"), ("preset", "greedy")]))
        good.says(BYE)
        await asyncio.gather(bad_serving, good_serving)
        await Connection(torn, PcmProtocol(), made).serve([("seed", "7"), ("preset", "greedy"), ("seed", "8")])
        return good, bad, torn

    good, bad, torn = run(scenario, open_engine=opener)
    assert opened[-1].seed == 77 and good.objects[0]["preset"] == "greedy" and good.objects[0]["seed"] == "77"
    assert bad.objects == [{"type": "error", "code": "bad_settings", "message": "bad is no setting"}] and bad.code == 1008
    assert torn.objects == [{"type": "error", "code": "bad_settings", "message": "seed is given twice, as '7' and '8'"}]
