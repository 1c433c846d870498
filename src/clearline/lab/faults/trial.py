"""A whole blind trial: what is run, in which order, and what it adds up to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clearline.app import Model
from clearline.audio import Recording, read_audio, to_mono
from clearline.errors import ClearlineError
from clearline.lab.doctor import Evidence
from clearline.lab.faults.matrix import Case, Level, confusion, examined, pairs
from clearline.lab.faults.rig import intact, run
from clearline.lab.faults.zoo import FAULTS, Fault
from clearline.lab.stats import wilson

# A rate that has to be resampled from, with samples above a codec's half rate to lose.
RATE, PAUSE = 44_100, 3.0
# What is asked of the doctor.
EXACT = 0.9


@dataclass(frozen=True)
class Plan:
    """seeds: of the runs with one fault; pair_count, with pair_seed: pairs; healthy: how many seeds without a fault;
    levels: what the doctor is given of runs with one fault."""

    faults: Sequence[Fault] = FAULTS
    seeds: Sequence[int] = (1,)
    pair_count: int = 0
    pair_seed: int = 0
    healthy: int = 0
    levels: Sequence[Level] = ("all",)

    @property
    def runs(self) -> int:
        return len(self.faults) * len(self.seeds) + self.pair_count + self.healthy


@dataclass
class Outcome:
    """All cases. Faults that changed nothing at all in a run (a filter that no token met) are left out of every share."""

    cases: list[Case] = field(default_factory=list)

    def single(self, level: Level = "all") -> list[Case]:
        return [case for case in self.cases if len(case.truth) == 1 and case.level == level and case.effect]

    @property
    def in_pairs(self) -> list[Case]:
        return [case for case in self.cases if len(case.truth) == 2]

    @property
    def healthy(self) -> list[Case]:
        return [case for case in self.cases if not case.truth]

    @property
    def without_effect(self) -> list[Case]:
        return [case for case in self.cases if len(case.truth) == 1 and not case.effect]

    @property
    def passed(self) -> bool:
        """At least 90% of single faults named exactly, none called well, no healthy run called faulty."""
        single = self.single()
        exact = sum(case.exact for case in single)
        missed = any(case.missed for case in (*single, *self.in_pairs))
        return exact >= EXACT * len(single) and not missed and not any(case.named for case in self.healthy)


def blind_trial(
    model: Model, recording: Recording, plan: Plan, on_case: Callable[[int, int, str], None] = lambda *_: None
) -> Outcome:
    """Carry a plan out. on_case(number, of, what) after each run."""
    outcome, done = Outcome(), 0

    def tell(what: str) -> None:
        nonlocal done
        on_case(done, plan.runs, what)
        done += 1

    for seed in plan.seeds if plan.faults else ():
        whole: Evidence = run(intact(model, seed), recording)
        for fault in plan.faults:
            machine = fault.part == "machine"
            outcome.cases += examined(model, recording, [fault], seed, plan.levels, machine=machine, healthy=whole)
            tell(fault.name)
    for first, second in pairs(plan.pair_seed, plan.pair_count):
        machine = "machine" in (first.part, second.part)
        outcome.cases += examined(model, recording, [first, second], plan.seeds[0], machine=machine)
        tell(f"{first.name} + {second.name}")
    for seed in range(1000, 1000 + plan.healthy):
        outcome.cases += examined(model, recording, [], seed, machine=seed == 1000)
        tell(f"healthy, seed {seed}")
    return outcome


def joined(paths: Sequence[Path]) -> Recording:
    """Recordings one after the other with pauses, at a rate that has to be resampled from. Raises AudioError."""
    if not paths:
        raise ClearlineError("a trial needs a recording of what the user says")
    pause = np.zeros(int(PAUSE * RATE), np.float32)
    parts = []
    for path in paths:
        found = read_audio(path, 600)
        parts += [to_mono(found.samples, found.rate, RATE), pause]
    return Recording(np.concatenate(parts[:-1])[:, None], RATE)


def summary(outcome: Outcome) -> list[str]:
    """What came of it, in lines of Markdown."""
    lines = []
    for level in dict.fromkeys(case.level for case in outcome.cases if len(case.truth) == 1):
        single = outcome.single(level)
        lines.append(_share(f"one fault, given {_GIVEN[level]}: named exactly", [case.exact for case in single]))
        lines.append(_share(f"one fault, given {_GIVEN[level]}: called well", [case.missed for case in single]))
    if outcome.in_pairs:
        lines.append(_share("two faults: both named", [set(case.truth) <= set(case.named) for case in outcome.in_pairs]))
        lines.append(_share("two faults: at least one named", [case.some for case in outcome.in_pairs]))
        lines.append(_share("two faults: called well", [case.missed for case in outcome.in_pairs]))
    if outcome.healthy:
        lines.append(_share("no fault: called faulty", [bool(case.named) for case in outcome.healthy]))
    if outcome.without_effect:
        names = sorted({case.truth[0] for case in outcome.without_effect})
        lines.append(
            f"| left out: changed no token and no sample of the run | {len(outcome.without_effect)} runs: {', '.join(names)} |"
        )
    return lines


_GIVEN: dict[Level, str] = {
    "all": "everything",
    "tokens": "tokens and sound, no logits",
    "codes": "codes, text and sound alone",
    "sound": "the sound alone",
}


def _share(what: str, hits: list[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"| {what} | {sum(hits)} of {len(hits)} ({low:.0%} to {high:.0%}) |"


def table(outcome: Outcome) -> list[str]:
    """The confusion matrix as a Markdown table: one row a fault, what it was called and how often."""
    lines = ["| fault put in | called |", "|---|---|"]
    for name, row in confusion([case for case in outcome.cases if case.level == "all"]).items():
        called = ", ".join(f"{other} {count}" if other != name else f"**{other}** {count}" for other, count in row.most_common())
        lines.append(f"| {name} | {called} |")
    return lines
