"""State machine, deadlines, capacity and scheduling: the parts that know neither a network nor a model."""

import asyncio
import itertools
import threading
import time

import pytest

from clearline.errors import ClearlineError, ConfigError
from clearline.server.capacity import Capacity
from clearline.server.deadlines import Account
from clearline.server.limits import Limits
from clearline.server.pace import Pace
from clearline.server.scheduler import Scheduler
from clearline.server.state import Lifecycle, State

ALLOWED = {
    (State.OPENING, State.LIVE),
    (State.OPENING, State.CLOSED),
    (State.LIVE, State.FINISHING),
    (State.LIVE, State.CLOSED),
    (State.FINISHING, State.CLOSED),
}


@pytest.mark.parametrize("before, after", list(itertools.product(State, State)))
def test_only_the_steps_in_the_table_are_possible(before, after):
    life = Lifecycle()
    life.state = before
    if (before, after) in ALLOWED:
        life.to(after)
        assert life.state is after
    else:
        with pytest.raises(ClearlineError, match=f"from {before.value} to {after.value}"):
            life.to(after)


def test_frames_that_come_in_time_are_due_one_frame_later():
    account = Account(0.08)
    assert [account.due(t) for t in (10.0, 10.08, 10.16)] == pytest.approx([10.08, 10.16, 10.24])


def test_a_burst_is_due_at_real_time_and_a_pause_is_not_saved_up():
    account = Account(0.08)
    assert [account.due(5.0) for _ in range(3)] == pytest.approx([5.08, 5.16, 5.24])
    assert account.due(7.0) == pytest.approx(7.08)


def test_what_is_counted():
    account = Account(0.08)
    # Ready, answered: in time; in time; 20 ms late and 20 ms after a client with one frame in reserve ran dry.
    for ready, answered in ((0.0, 0.05), (0.08, 0.13), (0.16, 0.31)):
        account.due(ready)
        account.answered(ready, answered, 0.04, True)
    assert (account.frames, account.missed, account.underruns, account.stalls) == (3, 1, 1, 0)
    # The microphone pauses for a second: the reply runs dry, and that is not the machine's fault.
    account.due(1.4)
    account.answered(1.4, 1.45, 0.04, True)
    assert (account.missed, account.underruns, account.stalls) == (1, 1, 1)
    figures = account.recent()
    assert figures["step_ms"] == 40.0 and figures["worst_latency_ms"] == pytest.approx(150.0)
    assert account.recent()["worst_latency_ms"] == 0.0


def test_capacity_is_arithmetic_over_measured_steps():
    capacity = Capacity(workers=2, frame_seconds=0.08, allowed_load=0.75, step_seconds=0.01)
    assert capacity.sessions == 12 and capacity.load(12) == pytest.approx(0.75)
    for _ in range(1000):
        capacity.observe(0.1)
    assert capacity.sessions == 1 and not capacity.keeps_up


@pytest.mark.parametrize("name, value", [("sessions", 0), ("load", -1.0), ("message_bytes", float("nan")), ("retry_seconds", True)])
def test_limits_that_make_no_sense(name, value):
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})


def test_the_most_urgent_runs_first():
    async def order() -> list[str]:
        scheduler, ran, gate = Scheduler(1), [], threading.Event()
        first = asyncio.create_task(scheduler.run(0.0, gate.wait))
        await asyncio.sleep(0.01)
        rest = [asyncio.create_task(scheduler.run(due, lambda name=name: ran.append(name))) for name, due in
                (("late", 3.0), ("soon", 1.0), ("same", 1.0), ("between", 2.0))]  # fmt: skip
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(first, *rest)
        scheduler.close()
        return ran

    assert asyncio.run(order()) == ["soon", "same", "between", "late"]


def test_no_more_than_the_workers_at_once_and_errors_go_to_who_asked():
    async def most() -> int:
        scheduler, lock, now, peak = Scheduler(3), threading.Lock(), 0, 0

        def work() -> None:
            nonlocal now, peak
            with lock:
                now += 1
                peak = max(peak, now)
            time.sleep(0.02)
            with lock:
                now -= 1

        def broken() -> None:
            raise ValueError("broken work")

        await asyncio.gather(*(scheduler.run(0.0, work) for _ in range(12)))
        with pytest.raises(ValueError, match="broken work"):
            await scheduler.run(0.0, broken)
        await scheduler.run(0.0, work)  # the worker is free again
        scheduler.close()
        return peak

    assert asyncio.run(most()) == 3


def test_reading_is_slowed_to_the_rate():
    async def seconds(messages: int) -> float:
        pace, started = Pace(100), time.monotonic()
        for _ in range(messages):
            await pace.wait()
        return time.monotonic() - started

    assert asyncio.run(seconds(90)) < 0.2
    assert asyncio.run(seconds(120)) >= 0.19
