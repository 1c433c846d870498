"""The server goes down, in virtual time: nobody is let in any more, who is there is warned and served."""

import asyncio

import pytest
from helpers.conversations import everything, frames, opened, run
from helpers.serving import Halver

from clearline.server.conversation import Notice, Reply
from clearline.server.hub import NoRoomError
from clearline.server.state import End


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
