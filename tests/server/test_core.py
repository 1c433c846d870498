"""State machine, deadlines, capacity and scheduling: the parts that know neither a network nor a model."""

import asyncio
import itertools
import threading

import pytest
from helpers.virtual import run_virtual

from clearline.errors import ClearlineError, ConfigError
from clearline.server.capacity import Capacity, Cost
from clearline.server.deadlines import Account, Fate
from clearline.server.limits import Limits
from clearline.server.metrics import Metrics
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
    assert account.recent()["worst_latency_ms"] == 0.0 and account.recent()["missed"] == 1
    assert account.whole() == {
        "frames": 4, "missed": 1, "underruns": 1, "stalls": 1, "step_ms": 40.0, "worst_step_ms": 40.0, "latency_ms": 75.0,
        "worst_latency_ms": 150.0,
    }  # fmt: skip


def test_what_prometheus_is_told():
    metrics = Metrics()
    for fate in (Fate(False), Fate(True), Fate(True, underrun=True), Fate(False, stall=True)):
        metrics.stepped("nano", 0.011, 0.02, fate)
    metrics.opened("pcm")
    metrics.refused()
    told = metrics.text().decode().splitlines()
    assert {
        "clearline_missed_deadlines_total 2.0", "clearline_underruns_total 1.0", "clearline_stalls_total 1.0",
        'clearline_sessions_opened_total{protocol="pcm"} 1.0', "clearline_sessions_refused_total 1.0",
        'clearline_step_seconds_bucket{le="0.01",model="nano"} 0.0', 'clearline_step_seconds_bucket{le="0.02",model="nano"} 4.0',
        "clearline_frame_latency_seconds_count 4.0",
    } <= set(told)  # fmt: skip


def test_capacity_is_arithmetic_over_measured_steps():
    capacity, cost = Capacity(workers=2, allowed_load=0.75), Cost(0.01, frame_seconds=0.08)
    assert capacity.more(cost, []) == 12 and capacity.more(cost, [cost] * 5) == 7 and capacity.more(cost, [cost] * 12) == 0
    assert capacity.load([cost] * 12) == pytest.approx(0.75) and cost.keeps_up
    for _ in range(1000):
        cost.observe(0.1)
    assert capacity.more(cost, []) == 1 and capacity.more(cost, [cost]) == 0 and not cost.keeps_up


def test_each_model_has_a_cost_of_its_own():
    capacity, small, large = Capacity(workers=2, allowed_load=0.75), Cost(0.01, 0.08), Cost(0.05, 0.08)
    # Two workers have 160 ms in a frame of 80, of which 120 are given away.
    assert capacity.load([large, small, small]) == pytest.approx(70 / 160)
    assert capacity.more(large, [large, small, small]) == 1 and capacity.more(small, [large, small, small]) == 5
    assert capacity.more(large, [large, large]) == 0 and capacity.more(small, [large, large]) == 2


def test_a_batch_costs_the_same_for_one_conversation_as_for_all():
    fast, slow = Cost(0.037, 0.08, lanes=32), Cost(0.039, 0.08, lanes=32)
    capacity = Capacity(workers=1, allowed_load=0.75)
    assert [capacity.more(fast, [fast] * n) for n in (0, 1, 31, 32)] == [32, 31, 1, 0]
    assert capacity.load([fast]) == capacity.load([fast] * 32) == pytest.approx(0.037 / 0.08)
    # Two steps one after the other, and 3 ms: a frame that comes when a step has just begun would be late.
    assert [capacity.more(slow, [slow] * n) for n in (0, 1)] == [1, 0]  # it would break nobody's but its own


@pytest.mark.parametrize("name, value", [("sessions", 0), ("load", -1.0), ("message_bytes", float("nan")), ("retry_seconds", True)])
def test_limits_that_make_no_sense(name, value):
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})


def collected(scheduler: Scheduler, due: float, work) -> "asyncio.Future":
    """The outcome of work that was handed to a scheduler."""
    future = asyncio.get_running_loop().create_future()
    scheduler.submit(due, work, future.set_result)
    return future


def test_the_most_urgent_runs_first():
    async def order() -> list[str]:
        scheduler, ran, gate = Scheduler(1), [], threading.Event()
        first = collected(scheduler, 0.0, lambda: gate.wait(60))
        rest = [collected(scheduler, due, lambda name=name: ran.append(name)) for name, due in
                (("late", 3.0), ("soon", 1.0), ("same", 1.0), ("between", 2.0))]  # fmt: skip
        gone = scheduler.submit(0.5, lambda: ran.append("gone"), lambda outcome: ran.append("gone"))
        assert gone.withdraw() and not gone.withdraw()
        gate.set()
        await asyncio.wait_for(asyncio.gather(first, *rest), 60)
        scheduler.close()
        return ran

    assert asyncio.run(order()) == ["soon", "same", "between", "late"]


def test_no_more_than_the_workers_at_once_and_errors_go_to_who_asked():
    class Panic(BaseException):
        """As pyo3 raises it."""

    async def most() -> int:
        scheduler, lock, now, peak, full = Scheduler(3), threading.Lock(), 0, 0, threading.Barrier(3)

        def work() -> None:
            nonlocal now, peak
            with lock:
                now += 1
                peak = max(peak, now)
            full.wait(60)  # three have to be here at once, or nothing goes on
            with lock:
                now -= 1

        def broken() -> None:
            raise Panic("broken work")

        await asyncio.wait_for(asyncio.gather(*(collected(scheduler, 0.0, work) for _ in range(12))), 60)
        outcome = await asyncio.wait_for(collected(scheduler, 0.0, broken), 60)
        assert isinstance(outcome.error, Panic) and outcome.value is None
        outcome = await asyncio.wait_for(collected(scheduler, 0.0, lambda: 5), 60)  # the worker is free again
        assert outcome.value == 5
        scheduler.close()
        return peak

    assert asyncio.run(most()) == 3


def test_closing_delivers_what_runs_and_drops_what_waits():
    gate, brought = threading.Event(), []

    async def begin() -> Scheduler:
        scheduler = Scheduler(1)
        scheduler.submit(0.0, lambda: gate.wait(60), brought.append)
        scheduler.submit(1.0, lambda: "waits", brought.append)
        return scheduler

    scheduler = asyncio.run(begin())
    gate.set()
    scheduler.close()
    assert [outcome.value for outcome in brought] == [True]


def test_reading_is_slowed_to_the_rate():
    async def scenario(loop):
        pace, started, times = Pace(100, loop.time), loop.time(), []
        for _ in range(150):
            await pace.wait()
            times.append(loop.time() - started)
        await asyncio.sleep(30)  # what was not used is not saved up beyond a second's worth
        again = loop.time()
        for _ in range(150):
            await pace.wait()
        return times[99], times[149], loop.time() - again

    assert run_virtual(scenario) == pytest.approx((0.0, 0.5, 0.5))
