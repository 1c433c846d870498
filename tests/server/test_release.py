"""Every way to end, in virtual time: the model's state is released, once, and never while a step uses it."""

import asyncio
import threading

from helpers.conversations import everything, frames, opened, run
from helpers.serving import Halver, hub
from helpers.virtual import run_virtual

from clearline.server.conversation import Ended
from clearline.server.state import End


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
