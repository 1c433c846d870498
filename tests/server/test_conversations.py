"""Conversations over one machine, without a network and in virtual time: bounded queues, fairness, admission, draining."""

import asyncio
import threading

import numpy as np
import pytest
from helpers.serving import FRAME, Halver, hub
from helpers.virtual import run_virtual

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

    async def inside(loop):
        made = hub(loop=loop, **keywords)
        try:
            return await scenario(made)
        finally:
            made.shut_down()

    return run_virtual(inside)


async def opened(made, seed: int = 0):
    return await made.open(GenerationConfig(seed=seed), encode, "test")


@pytest.mark.parametrize("chunk", [FRAME, 50, 700, 3 * FRAME + 11])
def test_sound_in_any_pieces_gives_the_same_replies(chunk):
    pcm = frames(4)[: -FRAME // 2]  # the last frame is half full

    async def scenario(made):
        conversation = await opened(made)
        for i in range(0, len(pcm), chunk):
            await conversation.hear(pcm[i : i + chunk])
        conversation.end_input()
        return await everything(conversation)

    replies, ended = run(scenario)
    assert ended.why is End.FINISHED and [reply.frame for reply in replies] == [0, 1, 2, 3]
    heard = np.concatenate([np.frombuffer(reply.sound, np.float32) for reply in replies])
    np.testing.assert_array_equal(heard[: len(pcm)], pcm / 2)
    assert not heard[len(pcm) :].any() and "".join(reply.text for reply in replies) == "abcd"


def test_queues_are_bounded_when_nobody_reads():
    async def scenario(made):
        conversation = await opened(made)
        talking = asyncio.create_task(conversation.hear(frames(100)))
        await asyncio.sleep(60)
        assert not talking.done()
        held = conversation.waiting, len(conversation._replies)
        reading = asyncio.create_task(everything(conversation))
        await talking
        conversation.end_input()
        return held, len((await reading)[0])

    held, count = run(scenario, seconds=0.01, heard_frames=5, reply_frames=7)
    assert held == (5, 7) and count == 100


def test_a_slow_reader_is_not_counted_as_a_slow_machine():
    async def scenario(made):
        conversation = await opened(made)
        talking = asyncio.create_task(conversation.hear(frames(20)))
        for _ in range(20):
            await conversation.news()
            await asyncio.sleep(1.0)
        await talking
        conversation.end(End.LEFT)
        return conversation.account.frames, conversation.account.missed

    assert run(scenario, seconds=0.01, heard_frames=3, reply_frames=1) == (20, 0)


def test_a_slow_machine_is_counted_as_one():
    async def scenario(made):
        conversation = await opened(made)
        reading = asyncio.create_task(everything(conversation))
        for frame in frames(20).reshape(-1, FRAME):
            await conversation.hear(frame)
            await asyncio.sleep(0.08)
        conversation.end_input()
        await reading
        return conversation.account

    account = run(scenario, seconds=0.11)
    # 30 ms are lost with each frame: one frame in reserve lasts for two more, and the third comes too late.
    assert (account.frames, account.missed, account.underruns, account.stalls) == (20, 20, 6, 0)


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

    async def speak(conversation, delay: float) -> None:
        await asyncio.sleep(delay)
        reading = asyncio.create_task(everything(conversation))
        for frame in frames(250).reshape(-1, FRAME):
            await conversation.hear(frame)
            await asyncio.sleep(0.08)
        conversation.end_input()
        await reading

    async def scenario(made):
        conversations = [await opened(made) for _ in range(6)]
        await asyncio.gather(*(speak(conversation, 0.003 * i) for i, conversation in enumerate(conversations)))
        return [(conversation.account.frames, conversation.account.missed) for conversation in conversations]

    assert run(scenario, seconds=0.01, workers=1) == [(250, 0)] * 6


def test_admission_counts_what_the_machine_holds():
    async def scenario(made):
        made.capacity.step_seconds = 0.03  # 2 workers, 80 ms: room for 4 at 75 percent
        first, *_ = [await opened(made) for _ in range(4)]
        with pytest.raises(NoRoomError, match=r"4 conversations are open.*holds 4.*try again in 10 seconds") as refusal:
            await opened(made)
        assert refusal.value.retry_seconds == 10
        made.close(first, End.LEFT)
        await opened(made)

    run(scenario, load=0.75)


def test_the_one_that_is_refused_would_have_broken_the_others():
    """The machine's own measurement lets in as many as never miss; one more would."""

    async def missed(made, count: int) -> int:
        conversations = [await opened(made) for _ in range(count)]
        reading = [asyncio.create_task(everything(conversation)) for conversation in conversations]
        for frame in frames(50).reshape(-1, FRAME):
            for conversation in conversations:
                await conversation.hear(frame)
            await asyncio.sleep(0.08)
        for conversation in conversations:
            conversation.end_input()
        await asyncio.gather(*reading)
        for conversation in conversations:
            made.close(conversation, End.LEFT)
        return sum(conversation.account.missed for conversation in conversations)

    async def scenario(made):
        assert made.room == 7 and made.capacity.keeps_up
        held = await missed(made, 7)
        made.capacity.allowed_load = 1e6
        return held, await missed(made, 8)

    held, broken = run(scenario, seconds=0.011, workers=1, load=1.0)
    assert held == 0 and broken > 0


def test_room_shrinks_when_steps_become_slower():
    async def scenario(made):
        conversation = await opened(made)
        before = made.room
        conversation._engine.seconds = 0.04  # as with a long context, or a machine that has other work to do
        reading = asyncio.create_task(everything(conversation))
        for frame in frames(400).reshape(-1, FRAME):
            await conversation.hear(frame)
        conversation.end_input()
        await reading
        return before, made.room

    assert run(scenario, seconds=0.01, workers=1, load=0.75) == (6, 1)


def test_a_fixed_limit_counts_those_that_are_just_being_opened():
    async def scenario(made):
        results = await asyncio.gather(*(opened(made) for _ in range(5)), return_exceptions=True)
        return [type(result).__name__ for result in results]

    assert sorted(run(scenario, sessions=2)) == ["Conversation"] * 2 + ["NoRoomError"] * 3


def test_the_first_is_let_in_however_slow_the_machine():
    async def scenario(made):
        made.capacity.step_seconds = 3.0
        assert (await opened(made)).state is State.LIVE

    run(scenario, load=0.75)


def test_an_engine_that_breaks_ends_its_conversation_and_no_other():
    engines = iter([Halver() for _ in range(3)])  # the warm-up takes three with two workers

    def opener(config):
        return next(engines, None) or Halver(fails_at=2 if config.seed == 13 else None)

    async def scenario(made):
        broken = await opened(made, seed=13)
        whole = await opened(made)
        await broken.hear(frames(5))
        await whole.hear(frames(5))
        whole.end_input()
        return await everything(broken), await everything(whole)

    (replies, ended), (others, other) = run(scenario, open_engine=opener)
    assert len(replies) == 2 and ended == Ended(End.FAILED, "the engine broke")
    assert len(others) == 5 and other.why is End.FINISHED


def test_ending_while_a_step_runs_releases_the_state_after_it():
    async def scenario(made):
        conversation = await opened(made)
        await conversation.hear(frames(3))
        await asyncio.sleep(0.05)
        conversation.end(End.LEFT)
        assert Halver.open == 1  # a thread still uses it
        conversation.end(End.FAILED)
        await conversation.hear(frames(3))  # into the void
        await asyncio.sleep(0.06)
        assert Halver.open == 0 and conversation.ended.why is End.LEFT and conversation.waiting == 0

    run(scenario, seconds=0.1)


def test_ending_while_a_step_waits_releases_the_state_at_once():
    async def scenario(made):
        runs, waits = await opened(made), await opened(made)
        await runs.hear(frames(1))
        await waits.hear(frames(1))
        waits.end(End.LEFT)
        assert Halver.open == 1
        await runs.news()
        await asyncio.sleep(1)
        assert runs.account.frames == 1 and waits.account.frames == 0  # nobody worked for the one that has left

    run(scenario, seconds=0.1, workers=1)


def test_a_client_that_leaves_while_its_state_is_made_leaves_nothing():
    async def scenario(made):
        busy = await opened(made)
        await busy.hear(frames(1))
        coming = asyncio.create_task(opened(made))  # waits for the only thread
        await asyncio.sleep(0.01)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        assert coming.cancelled() and made.sessions == 1
        await busy.news()
        await asyncio.sleep(1)
        assert Halver.open == 1

    run(scenario, seconds=0.1, workers=1)


def test_leaving_at_the_last_moment_of_the_opening():
    def slow(loop):
        def opener(config):
            engine = Halver()
            loop.work(0.5)
            return engine

        return opener

    async def inside(loop):
        made = hub(loop=loop, open_engine=slow(loop), workers=1)
        coming = asyncio.create_task(opened(made))
        await asyncio.sleep(0.1)
        assert Halver.open == 1
        coming.cancel()
        await asyncio.sleep(1)
        assert Halver.open == 0 and made.sessions == 0
        made.shut_down()

    run_virtual(inside)


def test_leaving_just_when_the_state_has_come():
    async def scenario(made):
        submit = made.scheduler.submit

        def submitted(due, work, done):
            return submit(due, work, lambda outcome: (done(outcome), coming.cancel()))

        made.scheduler.submit = submitted
        coming = asyncio.create_task(opened(made))
        await asyncio.gather(coming, return_exceptions=True)
        assert coming.cancelled() and made.sessions == 0 and Halver.open == 0

    run(scenario)


def test_who_waits_to_be_heard_is_woken_by_the_end():
    async def scenario(made):
        conversation = await opened(made)
        talking = asyncio.create_task(conversation.hear(frames(50)))
        await asyncio.sleep(0.1)
        assert not talking.done()
        conversation.end(End.LEFT)
        await asyncio.wait_for(talking, 1)

    run(scenario, heard_frames=2, reply_frames=2)


def test_samples_that_are_no_numbers():
    async def scenario(made):
        conversation = await opened(made)
        with pytest.raises(SessionError, match="NaN"):
            await conversation.hear(np.full(FRAME, np.nan, np.float32))

    run(scenario)


def test_draining_lets_nobody_in_and_ends_who_stays():
    async def scenario(made):
        stays, leaves = await opened(made), await opened(made)
        clock = asyncio.get_running_loop().time
        started = clock()
        draining = asyncio.create_task(made.drain())
        await asyncio.sleep(1)
        with pytest.raises(NoRoomError, match="going down"):
            await opened(made)
        notice = await stays.news()
        assert isinstance(notice, Notice) and notice.code == "draining" and "30 seconds" in notice.message
        made.close(leaves, End.LEFT)
        await stays.hear(frames(2))  # it can still talk
        assert isinstance(await stays.news(), Reply)
        assert (await everything(stays))[1].why is End.GOING_AWAY
        assert clock() - started == pytest.approx(30)
        made.close(stays, End.GOING_AWAY)
        await draining
        assert clock() - started == pytest.approx(30)  # nobody is there any more who would have to be told
        return made.status()["status"]

    assert run(scenario, drain_seconds=30) == "draining"


def test_draining_is_over_when_the_last_has_left():
    async def scenario(made):
        conversation = await opened(made)
        clock = asyncio.get_running_loop().time
        started = clock()
        draining = asyncio.create_task(made.drain())
        await asyncio.sleep(3)
        made.close(conversation, End.FINISHED)
        await draining
        return clock() - started

    assert run(scenario, drain_seconds=30) == pytest.approx(3)


def test_who_is_just_coming_in_when_draining_begins_is_sent_away():
    async def scenario(made):
        busy = await opened(made)
        await busy.hear(frames(1))
        coming = asyncio.create_task(opened(made))
        await asyncio.sleep(0.01)
        draining = asyncio.create_task(made.drain())
        with pytest.raises(NoRoomError, match="going down"):
            await coming
        await draining
        assert Halver.open == 0 and made.sessions == 1  # the one that was there has not closed its line

    run(scenario, seconds=0.1, workers=1, drain_seconds=1)


def test_shutting_down_without_a_loop_releases_what_a_step_was_using():
    """The end of a program that was interrupted: the loop is gone, a thread still works."""

    gate = threading.Event()

    def opener(config):
        return Halver(60 if config.seed == 13 else 0, sleep=gate.wait)

    async def begin():
        made = hub(open_engine=opener, workers=1)
        runs, waits = await opened(made, seed=13), await opened(made)
        await runs.hear(frames(1))
        await waits.hear(frames(1))
        runs.end(End.LEFT)
        return made

    made = asyncio.run(begin())
    assert Halver.open == 2
    gate.set()
    made.shut_down()
    assert Halver.open == 0
