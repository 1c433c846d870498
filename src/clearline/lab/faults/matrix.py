"""The blind trial: every fault alone, in pairs, and none at all; what the doctor calls each; how often it is right."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from clearline.app import Model
from clearline.audio import Recording
from clearline.lab.doctor import Evidence, examine
from clearline.lab.faults.rig import intact, run
from clearline.lab.faults.zoo import FAULTS, Fault
from clearline.trace import LOGITS, PCM, TOKENS, Trace

# What is handed over: everything; no logits; the codes, text and sound, as from a log and a file; the sound alone.
Level = Literal["all", "tokens", "codes", "sound"]
LEVELS: tuple[Level, ...] = ("all", "tokens", "codes", "sound")
_COLUMNS: dict[Level, frozenset[str]] = {
    "all": TOKENS | PCM | LOGITS,
    "tokens": TOKENS | PCM,
    "codes": frozenset(("codes_out", "text_token")),
    "sound": frozenset(),
}


@dataclass(frozen=True)
class Case:
    """One blind examination. truth: names of the faults put in; effect: whether anything recorded differs from the run
    without them; named: what the doctor found; confidence: of its first finding."""

    truth: tuple[str, ...]
    described: tuple[str, ...]
    seed: int
    level: Level
    effect: bool
    named: tuple[str, ...]
    kind: str
    confidence: float

    @property
    def exact(self) -> bool:
        """Every fault named, and named first; nothing else named before."""
        return set(self.truth) == set(self.named[: len(self.truth)])

    @property
    def some(self) -> bool:
        """At least one of the faults named."""
        return bool(set(self.truth) & set(self.named))

    @property
    def missed(self) -> bool:
        """Called well although something was wrong."""
        return bool(self.truth) and not self.named


def reduced(evidence: Evidence, level: Level) -> Evidence:
    """What an engineer without our traces would have."""
    if level == "all" or evidence.trace is None:
        return evidence
    columns = {name: column for name, column in evidence.trace.columns.items() if name in _COLUMNS[level]}
    if level == "tokens":
        return replace(evidence, trace=Trace(columns, evidence.trace.facts))
    # Another program's: no facts, no records, no times.
    trace = Trace(columns, {}) if columns else None
    return replace(
        evidence,
        trace=trace,
        input=None,
        input_hash=None,
        output_hash=None,
        step_ms=None,
        setup=None,
        runs=(),
        transcript=None,
        backend=None,
    )


def examined(
    model: Model, recording: Recording, faults: Sequence[Fault], seed: int, levels: Sequence[Level] = ("all",), *,
    machine: bool = True, healthy: Evidence | None = None,
) -> list[Case]:  # fmt: skip
    """Break a run, and ask the doctor, who is given the evidence and nothing else. healthy: the same run without faults."""
    rig = intact(model, seed)
    for fault in faults:
        fault.inject(rig)
    evidence = run(rig, recording)
    if faults and healthy is not None and rig.claimed != rig.model.generation(seed=seed):
        # The fault is one of other settings: without it, this is what they give.
        healthy = run(replace(intact(model, seed), settings=rig.claimed, claimed=rig.claimed), recording)
    effect = bool(faults) and (any(fault.silent for fault in faults) or healthy is None or differs(evidence, healthy))
    cases = []
    for level in levels:
        # Where the recorded values can be computed again, listening finds nothing more, and takes time; but it could call a
        # healthy run garbled.
        found = examine(reduced(evidence, level), machine=machine, listen=level in ("codes", "sound") or not faults)
        cases.append(
            Case(
                tuple(fault.name for fault in faults),
                tuple(fault.description for fault in faults),
                seed,
                level,
                effect,
                found.names,
                found.kind,
                found.findings[0].confidence if found.findings else 1.0,
            )
        )
    return cases


def differs(a: Evidence, b: Evidence) -> bool:
    """Whether anything that can be heard or counted differs: tokens, samples, records."""
    if a.trace is None or b.trace is None or a.output is None or b.output is None:
        return True
    tokens = any(not np.array_equal(a.trace.columns[name], b.trace.columns[name]) for name in TOKENS & a.trace.columns.keys())
    sound = a.output.rate != b.output.rate or not np.array_equal(a.output.samples, b.output.samples)
    return tokens or sound or [run["output"] for run in a.runs] != [run["output"] for run in b.runs]


def pairs(seed: int = 0, count: int | None = None) -> Iterator[tuple[Fault, Fault]]:
    """Pairs of faults of different parts, each pair once, in a random order; `count` of them."""
    every = [(a, b) for i, a in enumerate(FAULTS) for b in FAULTS[i + 1 :] if a.part != b.part and a.name != b.name]
    order = np.random.default_rng(seed).permutation(len(every))
    for index in order[:count]:
        yield every[index]


def confusion(cases: Sequence[Case]) -> dict[str, Counter[str]]:
    """For each fault (alone, with an effect), what the doctor called it first."""
    table: dict[str, Counter[str]] = {}
    for case in cases:
        if len(case.truth) <= 1 and (case.effect or not case.truth):
            row = table.setdefault(case.truth[0] if case.truth else "healthy", Counter())
            row[case.named[0] if case.named else "all is well"] += 1
    return table


Progress = Callable[[int, int, str], None]
