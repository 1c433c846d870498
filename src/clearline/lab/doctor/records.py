"""Records: did every run that is counted really run, on this input, and does the seed decide what comes out?"""

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, POSSIBLE, Chart, Finding, Kind

_BAD: Kind = "bad evidence"
_FRESH = "make every run write an id of its own and the hashes of input and output (`clearline trials` does)"


def look_at_records(evidence: Evidence, chart: Chart) -> None:
    """Hashes in the facts against the files given, and the records of runs against each other."""
    facts = evidence.facts
    for what, given in (("input", evidence.input_hash), ("output", evidence.output_hash)):
        noted = facts.get(what)
        if noted is None or given is None:
            continue
        if noted != given:
            chart.found(
                Finding(
                    "stale-result",
                    _BAD,
                    what,
                    f"the trace is of another {what} than the file given: one of them is left over from another run",
                    f"the trace names the hash {str(noted)[:12]}, the file has {given[:12]}",
                    "delete results before each run",
                    CERTAIN,
                )
            )
        else:
            chart.passed(what, f"the trace names this file's hash ({given[:12]})")
    _runs(evidence.runs, chart)


def _runs(runs: Sequence[dict[str, Any]], chart: Chart) -> None:
    if len(runs) < 2:
        return
    ids = [run["run_id"] for run in runs if run.get("run_id")]
    twice = [value for value, count in Counter(ids).items() if count > 1]
    started = [run["started"] for run in runs if run.get("started")]
    together = len(started) - len(set(started))
    if twice or together:
        chart.found(
            Finding(
                "cached-result",
                _BAD,
                "runs",
                "results are counted more than once: not every run ran",
                f"{len(runs)} records hold {len(set(ids)) if ids else len(set(started))} different runs",
                _FRESH,
                CERTAIN,
            )
        )
    instant = [run for run in runs if run.get("seconds") is not None and float(run["seconds"]) <= 0]
    if instant:
        chart.found(
            Finding(
                "cached-result",
                _BAD,
                "runs",
                "runs are counted that took no time at all: a result from a cache",
                f"{len(instant)} of {len(runs)} records took 0 s",
                _FRESH,
                CERTAIN,
            )
        )
    by_seed: dict[Any, set[str]] = {}
    for run in runs:
        if run.get("seed") is not None and run.get("output"):
            by_seed.setdefault(run["seed"], set()).add(run["output"])
    differing = [seed for seed, outputs in by_seed.items() if len(outputs) > 1]
    if differing:
        chart.found(
            Finding(
                "not-deterministic",
                "wrong tokens",
                "runs",
                "the same seed gives different outputs",
                f"seed {differing[0]} gave {len(by_seed[differing[0]])} outputs",
                "seed the sampler once, draw from nothing else, and do not let threads share a generator",
                CERTAIN,
            )
        )
    elif not (twice or together or instant):
        chart.passed("runs", f"{len(runs)} runs, each with an id of its own; the same seed gave the same output")


def look_at_transcript(evidence: Evidence, said: str | None, chart: Chart) -> None:
    """What a recogniser claims against the model's own text: an ASR asked without a choice makes sentences up."""
    if evidence.transcript is None:
        return
    if said is None:
        chart.found(
            Finding(
                "asr-alone",
                "note",
                "transcript",
                "a transcript alone proves nothing: recognisers write plausible sentences for garbage",
                f"it reads {evidence.transcript[:60]!r}, and the model's own text is not known",
                "give the trace, or use `clearline judge`",
                POSSIBLE,
            )
        )
        return
    alike = similarity(evidence.transcript, said)
    line = f"transcript {evidence.transcript[:60]!r}, the model's own text {said[:60]!r}: {alike:.0%} of the words in common"
    if alike < 0.3:
        chart.found(
            Finding(
                "hallucinated-transcript",
                _BAD,
                "transcript",
                "the transcript is not what the model said: the recogniser made it up, or heard garbage",
                line,
                "never count a free-running recogniser's sentence as success; `clearline judge` asks by forced choice",
                LIKELY,
            )
        )
    else:
        chart.passed("transcript", line)


def similarity(a: str, b: str) -> float:
    """Share of words in common, in order: 2 matches / (words of both)."""
    x, y = ([word.strip(".,!?;:\"'").lower() for word in text.split()] for text in (a, b))
    return SequenceMatcher(None, x, y, autojunk=False).ratio() if x or y else 1.0
