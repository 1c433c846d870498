"""Conversations that share a machine, in virtual time: nobody takes more than its part."""

import asyncio

import pytest
from helpers.conversations import everything, frames, opened, run, speak
from helpers.serving import FRAME

from clearline.server.state import End


def test_those_that_burst_do_not_delay_one_in_real_time():
    async def scenario(made):
        bursts = [await opened(made) for _ in range(3)]
        steady = await opened(made)
        tasks = [asyncio.create_task(task) for burst in bursts for task in (burst.hear(frames(2000)), everything(burst))]
        tasks.append(asyncio.create_task(everything(steady)))
        await asyncio.sleep(0.5)
        before = [burst.account.frames for burst in bursts]
        for frame in frames(100).reshape(-1, FRAME):
            await steady.hear(frame)
            await asyncio.sleep(0.08)
        done = [burst.account.frames - first for burst, first in zip(bursts, before, strict=True)]
        for conversation in (*bursts, steady):
            conversation.end(End.LEFT)
        await asyncio.gather(*tasks)
        return steady.account, done

    steady, done = run(scenario, seconds=0.015, workers=1)
    # One step that has begun, then its own. First come, first served would let it wait for one of each burst.
    assert (steady.frames, steady.missed) == (100, 0) and steady.recent()["worst_latency_ms"] <= 30.0
    assert sum(done) == pytest.approx(8 / 0.015 - 100, abs=1)  # they had all the rest of the 8 seconds,
    assert max(done) - min(done) <= 1  # in equal parts


def test_on_a_machine_that_is_too_small_a_burst_takes_no_more_than_its_part():
    async def scenario(made):
        bursts = [await opened(made) for _ in range(8)]
        steady = await opened(made)
        tasks = [asyncio.create_task(task) for burst in bursts for task in (burst.hear(frames(1000)), everything(burst))]
        tasks.append(asyncio.create_task(everything(steady)))
        for frame in frames(100).reshape(-1, FRAME):
            await steady.hear(frame)
            await asyncio.sleep(0.08)
        counts = [conversation.account.frames for conversation in (steady, *bursts)]
        for conversation in (*bursts, steady):
            conversation.end(End.LEFT)
        await asyncio.gather(*tasks)
        return counts

    steady, *bursts = run(scenario, seconds=0.02, workers=1)  # nine, and room for four
    assert steady >= max(bursts) - 1 and max(bursts) - min(bursts) <= 1 and sum(bursts) + steady >= 399


def test_equal_clients_are_served_equally_on_a_full_machine():
    """Six at 10 ms fill three quarters of one worker: nobody is ever late, whatever the order in which they speak."""

    async def scenario(made):
        conversations = [await opened(made) for _ in range(6)]
        await asyncio.gather(*(speak(conversation, 250, 0.003 * i) for i, conversation in enumerate(conversations)))
        return [(conversation.account.frames, conversation.account.missed) for conversation in conversations]

    assert run(scenario, seconds=0.01, workers=1) == [(250, 0)] * 6


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("order", [("large", "small"), ("small", "large")])
def test_models_of_different_cost_share_a_full_machine_without_a_miss(workers, order):
    """As many of each as are let in, whoever comes first; a long step delays a short one, and no frame is late."""

    async def scenario(made):
        conversations = []
        for name in order:
            most = 1 if name == order[0] else 1000  # the first has one, the other fills what is left
            while len(conversations) < most and made.sessions < made.room(name):
                conversations.append(await opened(made, model=name))
        await asyncio.gather(*(speak(conversation, 250, 0.0137 * i % 0.08) for i, conversation in enumerate(conversations)))
        return len(conversations), sum(conversation.account.missed for conversation in conversations)

    count, missed = run(scenario, models={"small": 0.01, "large": 0.04}, workers=workers, load=0.75)
    assert count >= 2 and missed == 0
