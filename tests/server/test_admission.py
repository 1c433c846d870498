"""Who is let in, in virtual time: as many as the machine holds by its own measurement, of each model."""

import asyncio

import pytest
from helpers.conversations import everything, frames, opened, run
from helpers.serving import FRAME, Halver

from clearline.config import GenerationConfig
from clearline.errors import ConfigError
from clearline.server.hub import NoRoomError
from clearline.server.offer import Offer, by_name
from clearline.server.state import End, State


def test_admission_counts_what_the_machine_holds():
    async def scenario(made):
        made.costs["halver"].step_seconds = 0.03  # 2 workers, 80 ms: room for 4 at 75 percent
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
        assert made.room() == 7 and made.costs["halver"].keeps_up
        held = await missed(made, 7)
        made.capacity.allowed_load = 1e6
        return held, await missed(made, 8)

    held, broken = run(scenario, seconds=0.011, workers=1, load=1.0)
    assert held == 0 and broken > 0


def test_room_shrinks_when_steps_become_slower():
    async def scenario(made):
        conversation = await opened(made)
        before = made.room()
        conversation._engine.seconds = 0.04  # as with a long context, or a machine that has other work to do
        reading = asyncio.create_task(everything(conversation))
        for frame in frames(400).reshape(-1, FRAME):
            await conversation.hear(frame)
        conversation.end_input()
        await reading
        return before, made.room()

    assert run(scenario, seconds=0.01, workers=1, load=0.75) == (6, 1)


def test_a_fixed_limit_counts_those_that_are_just_being_opened():
    async def scenario(made):
        results = await asyncio.gather(*(opened(made) for _ in range(5)), return_exceptions=True)
        return [type(result).__name__ for result in results]

    assert sorted(run(scenario, sessions=2)) == ["Conversation"] * 2 + ["NoRoomError"] * 3


def test_the_first_is_let_in_however_slow_the_machine():
    async def scenario(made):
        made.costs["halver"].step_seconds = 3.0
        assert (await opened(made)).state is State.LIVE

    run(scenario, load=0.75)


MODELS = {"small": 0.01, "large": 0.05}  # seconds a step; one worker gives away 60 ms of every 80


def test_each_model_is_admitted_by_what_its_own_steps_cost():
    async def scenario(made):
        assert (made.room("small"), made.room("large"), made.room()) == (6, 1, 6)
        large = await opened(made, model="large")
        assert (made.room("small"), made.room("large")) == (2, 1) and made.load == pytest.approx(5 / 8)
        with pytest.raises(NoRoomError, match="1 conversations are open, and this machine holds 1 with large"):
            await opened(made, model="large")
        await opened(made, model="small")
        with pytest.raises(NoRoomError, match="holds 2 with small"):
            await opened(made, model="small")
        status = made.status()
        assert (status["sessions"], status["room"]) == (2, 2) and status["models"] == {
            "small": {"sessions": 1, "room": 2, "step_ms": 10.0, "keeps_up": True},
            "large": {"sessions": 1, "room": 2, "step_ms": 50.0, "keeps_up": True},
        }
        made.close(large, End.LEFT)
        await opened(made, model="small")
        assert made.sessions_with("small") == 2 and made.room("large") == 2  # none more of the large ones

    run(scenario, models=MODELS, workers=1, load=0.75)


def test_steps_of_one_model_say_nothing_of_another():
    async def scenario(made):
        conversation = await opened(made, model="large")
        conversation._engine.seconds = 0.01
        reading = asyncio.create_task(everything(conversation))
        await conversation.hear(frames(1000))
        conversation.end_input()
        await reading
        return [made.status()["models"][name]["step_ms"] for name in MODELS]

    assert run(scenario, models={"small": 0.02, "large": 0.05}, workers=1) == [20.0, pytest.approx(10.0, abs=0.1)]


@pytest.mark.parametrize("name", ["medium", "", "../large", "/etc/passwd", "large/../small", "\x00"])
def test_a_name_that_is_not_offered(name):
    async def scenario(made):
        with pytest.raises(ConfigError, match=r"there is no model .* here; this server has 'small', 'large'"):
            await opened(made, model=name)
        assert made.sessions == 0

    run(scenario, models=MODELS)


def test_models_that_cannot_be_offered_together():
    def offer(name, rate=24_000):
        return Offer(name, lambda config: Halver(), GenerationConfig(), FRAME, rate)

    with pytest.raises(ConfigError, match="two models are called 'a'"):
        by_name([offer("a"), offer("a")])
    with pytest.raises(ConfigError, match="a 24000 Hz, 1920 samples; b 16000 Hz"):
        by_name([offer("a"), offer("b", 16_000)])
