"""Conversations that are lanes of one batch: as many as lanes, each the session it would be alone."""

import asyncio

import numpy as np
import pytest
from helpers.checkpoints import model, speech

pytest.importorskip("torch")

from clearline.config import GenerationConfig, Sampling
from clearline.errors import ConfigError
from clearline.generate.lanes import lane_bytes
from clearline.server.access import Access
from clearline.server.conversation import Ended, Reply
from clearline.server.hub import NoRoomError
from clearline.server.limits import Limits
from clearline.server.run import Options, make_hub, own_batch

FRAMES = 5


async def talk(hub, config: GenerationConfig, pcm: np.ndarray) -> tuple[list[Reply], str]:
    conversation = await hub.open(hub.default, config, lambda sound: sound.astype(np.float32).tobytes(), "test")
    hearing = asyncio.create_task(conversation.hear(pcm))
    hearing.add_done_callback(lambda done: conversation.end_input())
    replies = []
    while not isinstance(news := await conversation.news(), Ended):
        if isinstance(news, Reply):
            replies.append(news)
    hub.close(conversation, news.why)
    return replies, news.message


@pytest.mark.parametrize("limit", [None, 2])
def test_two_at_once_are_two_alone_and_a_third_waits_its_turn(limit):
    loaded = model("moshi_d1", "torch")
    hub = make_hub({"tiny": loaded}, Options("127.0.0.1", Access(), Limits(load=1e6, sessions=limit), workers=7, batch=2))
    configs = [loaded.generation(seed=seed) for seed in (3, 4, 5)]
    inputs = [speech(FRAMES, seed) for seed in (3, 4, 5)]

    async def scenario():
        both = [asyncio.create_task(talk(hub, configs[i], inputs[i])) for i in (0, 1)]
        while hub.sessions < 2:
            await asyncio.sleep(0)
        with pytest.raises(NoRoomError, match="this machine holds 2"):
            await talk(hub, configs[2], inputs[2])
        return [*await asyncio.gather(*both), await talk(hub, configs[2], inputs[2])]

    try:
        assert hub.room() == 2
        answers = asyncio.run(scenario())
    finally:
        hub.shut_down()
    for config, pcm, (replies, message) in zip(configs, inputs, answers, strict=True):
        assert message in ("", "finished") and len(replies) == FRAMES
        with loaded.session(config) as session:
            for reply, frame in zip(replies, pcm.reshape(-1, 1920), strict=True):
                alone = session.step(frame)
                assert reply.text == alone.text and bool(reply.sound) == (alone.pcm is not None)
                if alone.pcm is not None:
                    np.testing.assert_allclose(np.frombuffer(reply.sound, np.float32), alone.pcm, atol=1e-5)


def test_room_is_that_of_one_step_for_all():
    """Many threads wait for it, and it is no faster for that."""
    hub = make_hub({"tiny": model("moshi_d1", "torch")}, Options("127.0.0.1", Access(), Limits(), workers=7, batch=3))
    try:
        cost = hub.costs["tiny"]
        assert cost.lanes == 3 and cost.step_seconds == hub.default.batch.step_seconds > 0
        for seconds, room in ((0.037, 3), (0.039, 1), (0.2, 1)):
            cost.step_seconds = seconds
            assert hub.room() == room
    finally:
        hub.shut_down()


def test_how_many_are_stepped_together_where_nobody_says(monkeypatch):
    """Where frames are captured: as many as fit, in a batch that is made once; elsewhere each is stepped by itself."""
    loaded = model("moshi_d1", "torch")
    assert own_batch(loaded, None, 8) is None
    monkeypatch.setattr(type(loaded), "in_lanes", lambda self, config: True)
    each = lane_bytes(loaded.mimi, loaded.programs, guided=False)
    for free, fitting in ((None, 8), (100 * each, 8), (5 * each, 4), (0, 1)):
        monkeypatch.setattr(type(loaded.backend), "free_bytes", lambda self, free=free: free)
        assert own_batch(loaded, "greedy", 8) == fitting


def test_settings_that_lanes_cannot_have_are_the_clients_mistake():
    """ConfigError is what a connection answers as bad_settings, and the lane is free again."""
    loaded = model("moshi_d1", "torch")
    hub = make_hub({"tiny": loaded}, Options("127.0.0.1", Access(), Limits(load=1e6), workers=7, batch=1))
    long = loaded.generation(text=Sampling(repetition_penalty=1.1, repetition_context=1000))
    try:
        with pytest.raises(ConfigError, match="repetition context is at most 256, got 1000"):
            asyncio.run(talk(hub, long, speech(1)))
        replies, _ = asyncio.run(talk(hub, loaded.generation(), speech(2)))
        assert len(replies) == 2
    finally:
        hub.shut_down()
