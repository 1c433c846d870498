"""Conversations over one machine, without a network: bounded queues, fairness, admission, draining, release of state."""

import asyncio
import time

import numpy as np
import pytest
from helpers.serving import FRAME, Halver, hub

from clearline.config import GenerationConfig
from clearline.errors import SessionError
from clearline.server.conversation import Ended, Notice, Reply
from clearline.server.hub import NoRoomError
from clearline.server.state import End, State


def frames(count: int) -> np.ndarray:
    return np.arange(count * FRAME, dtype=np.float32) / (count * FRAME)


def encode(pcm: np.ndarray) -> bytes:
    return pcm.astype(np.float32).tobytes()


async def everything(conversation) -> tuple[list[Reply], Ended]:
    replies = []
    while not isinstance(news := await conversation.news(), Ended):
        replies.append(news)
    return replies, news


def run(scenario, **keywords):
    """Run `await scenario(hub)` on a fresh hub."""

    async def inside():
        made = hub(**keywords)
        try:
            return await asyncio.wait_for(scenario(made), 20)
        finally:
            made.shut_down()

    return asyncio.run(inside())


@pytest.mark.parametrize("chunk", [FRAME, 1, 700, 3 * FRAME + 11])
def test_sound_in_any_pieces_gives_the_same_replies(chunk):
    pcm = frames(4)[: -FRAME // 2]  # the last frame is half full

    async def scenario(made):
        conversation = await made.open(GenerationConfig(), encode, "test")
        step = max(chunk, 50) if chunk == 1 else chunk
        for i in range(0, len(pcm), step):
            await conversation.hear(pcm[i : i + step])
        conversation.end_input()
        return await everything(conversation)

    replies, ended = run(scenario)
    assert ended.why is End.FINISHED and [reply.frame for reply in replies] == [0, 1, 2, 3]
    heard = np.concatenate([np.frombuffer(reply.sound, np.float32) for reply in replies])
    np.testing.assert_array_equal(heard[: len(pcm)], pcm / 2)
    assert not heard[len(pcm) :].any() and "".join(reply.text for reply in replies) == "abcd"


def test_queues_are_bounded_when_nobody_reads():
    async def scenario(made):
        conversation = await made.open(GenerationConfig(), encode, "test")
        talking = asyncio.create_task(conversation.hear(frames(100)))
        await asyncio.sleep(0.3)
        assert not talking.done()
        held = conversation.waiting, len(conversation._replies)
        reading = asyncio.create_task(everything(conversation))
        await talking
        conversation.end_input()
        return held, len((await reading)[0])

    held, count = run(scenario, heard_frames=5, reply_frames=7)
    assert held == (5, 7) and count == 100


def test_a_slow_reader_is_not_counted_as_a_slow_machine():
    async def scenario(made):
        conversation = await made.open(GenerationConfig(), encode, "test")
        talking = asyncio.create_task(conversation.hear(frames(20)))
        for _ in range(20):
            await conversation.news()
            await asyncio.sleep(0.03)
        await talking
        conversation.end(End.LEFT)
        return conversation.account.missed

    assert run(scenario, heard_frames=3, reply_frames=1) == 0


def test_those_that_burst_do_not_delay_one_in_real_time():
    async def scenario(made):
        bursts = [await made.open(GenerationConfig(), encode, "test") for _ in range(8)]
        steady = await made.open(GenerationConfig(), encode, "test")
        tasks = [asyncio.create_task(task) for burst in bursts for task in (burst.hear(frames(400)), everything(burst))]
        await asyncio.sleep(0.2)
        for frame in frames(10).reshape(-1, FRAME):
            await steady.hear(frame)
            await asyncio.sleep(0.08)
        done = sum(burst.account.frames for burst in bursts)
        for conversation in (*bursts, steady):
            conversation.end(End.LEFT)
        await asyncio.gather(*tasks)
        return steady.account, done

    steady, done = run(scenario, seconds=0.02, workers=1)
    # First come, first served would let it wait for eight steps each time: 160 ms and more.
    assert steady.frames == 10 and steady.recent()["latency_ms"] < 100
    assert done > 10  # and they used what it left


def test_admission_counts_what_the_machine_holds():
    async def scenario(made):
        made.capacity.step_seconds = 0.03  # 2 workers, 80 ms: room for 4 at 75 percent
        opened = [await made.open(GenerationConfig(), encode, "test") for _ in range(4)]
        with pytest.raises(NoRoomError, match=r"4 conversations are open.*holds 4.*try again in 10 seconds") as refusal:
            await made.open(GenerationConfig(), encode, "test")
        assert refusal.value.retry_seconds == 10
        made.close(opened[0], End.LEFT)
        await made.open(GenerationConfig(), encode, "test")

    run(scenario, load=0.75)


def test_a_fixed_limit_counts_those_that_are_just_being_opened():
    async def scenario(made):
        results = await asyncio.gather(*(made.open(GenerationConfig(), encode, "test") for _ in range(5)), return_exceptions=True)
        return [type(result).__name__ for result in results]

    assert sorted(run(scenario, sessions=2)) == ["Conversation"] * 2 + ["NoRoomError"] * 3


def test_the_first_is_let_in_however_slow_the_machine():
    async def scenario(made):
        made.capacity.step_seconds = 3.0
        assert (await made.open(GenerationConfig(), encode, "test")).state is State.LIVE

    run(scenario, load=0.75)


def test_an_engine_that_breaks_ends_its_conversation_and_no_other():
    engines = iter([Halver() for _ in range(3)])  # the warm-up takes three with two workers

    def opener(config):
        return next(engines, None) or Halver(fails_at=2 if config.seed == 13 else None)

    async def scenario(made):
        broken = await made.open(GenerationConfig(seed=13), encode, "test")
        whole = await made.open(GenerationConfig(), encode, "test")
        await broken.hear(frames(5))
        await whole.hear(frames(5))
        whole.end_input()
        return await everything(broken), await everything(whole)

    (replies, ended), (others, other) = run(scenario, open_engine=opener)
    assert len(replies) == 2 and ended == Ended(End.FAILED, "the engine broke")
    assert len(others) == 5 and other.why is End.FINISHED


def test_ending_while_a_step_runs_releases_the_state_after_it():
    async def scenario(made):
        conversation = await made.open(GenerationConfig(), encode, "test")
        await conversation.hear(frames(3))
        await asyncio.sleep(0.02)
        conversation.end(End.LEFT)
        assert Halver.open == 1  # a thread still uses it
        conversation.end(End.FAILED)
        await conversation.hear(frames(3))  # into the void
        await asyncio.sleep(0.3)
        assert Halver.open == 0 and conversation.ended.why is End.LEFT and conversation.waiting == 0

    run(scenario, seconds=0.1)


def test_who_waits_to_be_heard_is_woken_by_the_end():
    async def scenario(made):
        conversation = await made.open(GenerationConfig(), encode, "test")
        talking = asyncio.create_task(conversation.hear(frames(50)))
        await asyncio.sleep(0.1)
        conversation.end(End.LEFT)
        await asyncio.wait_for(talking, 1)

    run(scenario, heard_frames=2, reply_frames=2)


def test_samples_that_are_no_numbers():
    async def scenario(made):
        conversation = await made.open(GenerationConfig(), encode, "test")
        with pytest.raises(SessionError, match="NaN"):
            await conversation.hear(np.full(FRAME, np.nan, np.float32))

    run(scenario)


def test_draining_lets_nobody_in_and_ends_who_stays():
    async def scenario(made):
        stays = await made.open(GenerationConfig(), encode, "test")
        leaves = await made.open(GenerationConfig(), encode, "test")
        started = time.monotonic()
        draining = asyncio.create_task(made.drain())
        await asyncio.sleep(0.05)
        with pytest.raises(NoRoomError, match="going down"):
            await made.open(GenerationConfig(), encode, "test")
        notice = await stays.news()
        assert isinstance(notice, Notice) and notice.code == "draining"
        made.close(leaves, End.LEFT)
        await stays.hear(frames(2))  # it can still talk
        assert isinstance(await stays.news(), Reply)
        await draining
        assert time.monotonic() - started < 2
        return (await everything(stays))[1].why, made.status()["status"]

    assert run(scenario, drain_seconds=0.4) == (End.GOING_AWAY, "draining")
