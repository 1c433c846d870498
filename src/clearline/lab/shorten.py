"""The shortest beginning of a run that still shows what is wrong with it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clearline.audio import Recording
from clearline.lab.doctor import Diagnosis, Evidence, examine
from clearline.trace import Trace

# Frames below which nothing can be said, and within which the answer is short enough.
FEWEST, WITHIN = 10, 5


def cut(evidence: Evidence, steps: int) -> Evidence:
    """The first `steps` frames of a run: trace, input, output and times. Hashes of whole files go with the rest."""
    trace, model = evidence.trace, evidence.model
    size, rate = (1920, 24_000) if model is None else (model.mimi.frame_size, model.mimi.sample_rate)
    if trace is not None:
        facts = {name: value for name, value in trace.facts.items() if name not in ("input", "output")}
        trace = Trace({name: column[:steps] for name, column in trace.columns.items()}, facts, complete=False)
    seconds = steps * size / rate
    return replace(
        evidence,
        trace=trace,
        input=_begin(evidence.input, seconds),
        output=_begin(evidence.output, seconds),
        input_hash=None,
        output_hash=None,
        step_ms=None if evidence.step_ms is None else evidence.step_ms[:steps],
    )


def shortest(
    evidence: Evidence, diagnosis: Diagnosis, on_step: Callable[[str], None] = lambda _: None
) -> tuple[Evidence, int | None]:
    """The evidence cut to the fewest frames at which the first finding is found again, by halving; None in place of the
    number where there is nothing to cut, or nothing to find."""
    steps = 0 if evidence.trace is None else evidence.trace.steps
    if diagnosis.well or steps <= FEWEST:
        return evidence, None
    wanted = diagnosis.findings[0].name
    low, high = FEWEST, steps
    while high - low > WITHIN:
        middle = (low + high) // 2
        on_step(f"does it show in {middle} frames?")
        found = examine(cut(evidence, middle), machine=False, listen=False)
        if wanted in found.names:
            high = middle
        else:
            low = middle
    return (cut(evidence, high), high) if high < steps else (evidence, steps)


def _begin(recording: Recording | None, seconds: float) -> Recording | None:
    if recording is None:
        return None
    return Recording(np.asarray(recording.samples[: max(1, round(seconds * recording.rate))]), recording.rate)
