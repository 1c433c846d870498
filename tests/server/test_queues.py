"""One conversation in virtual time: sound in any pieces, bounded queues, and whose fault it is when something is late."""

import asyncio

import numpy as np
import pytest
from helpers.conversations import everything, frames, opened, run, speak
from helpers.serving import FRAME

from clearline.errors import SessionError
from clearline.server.state import End


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
        await speak(conversation, 20)
        return conversation.account

    account = run(scenario, seconds=0.11)
    # 30 ms are lost with each frame: one frame in reserve lasts for two more, and the third comes too late.
    assert (account.frames, account.missed, account.underruns, account.stalls) == (20, 20, 6, 0)


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
