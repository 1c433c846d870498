"""How often does it work? Many runs, each of which really runs, and what their number allows to say.

A run succeeds when (1) its text has at least so many words, and (2) its sound belongs to its codes: the codes of the
semantic codebook come back from the decoded sound more often than those of the same output with its acoustic codebooks
moved one frame either way (exact sign test, p < 0.05; see `align`). That criterion needs no recogniser. It does not say
that the words can be understood: a clear voice saying the wrong thing succeeds.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from clearline.app import Model
from clearline.audio import Recording
from clearline.config import GenerationConfig
from clearline.errors import ClearlineError
from clearline.generate import Result
from clearline.lab.align import sweep
from clearline.lab.stats import fewest_discordant, pairs_needed, sign_test, wilson

BELONGS = 0.05


@dataclass(frozen=True)
class Run:
    """One run. output: sha256 of its samples and codes; run_id is new for every run that was made, whatever came of it."""

    run_id: str
    started: str
    seed: int
    seconds: float
    speed: float
    words: int
    text: str
    output: str
    success: bool
    why: str


@dataclass(frozen=True)
class Trials:
    """Runs under one set of settings, one per seed. interval: Wilson, 95%. repeated: the first seed run once more.
    distinct: how many different outputs the seeds gave."""

    runs: list[Run]
    repeated: Run
    interval: tuple[float, float]

    @property
    def successes(self) -> int:
        return sum(run.success for run in self.runs)

    @property
    def rate(self) -> float:
        return self.successes / len(self.runs)

    @property
    def deterministic(self) -> bool:
        """Whether the same seed gave the same output twice."""
        return self.repeated.output == self.runs[0].output

    @property
    def distinct(self) -> int:
        return len({run.output for run in self.runs})


@dataclass(frozen=True)
class Against:
    """Two settings on the same seeds. only_first: seeds at which only the first succeeded. p: McNemar, exact, two-sided.
    needed: pairs that would show a difference like the observed one with 80% power; least: discordant pairs, all on one
    side, without which no number of runs reaches p < 0.05."""

    only_first: int
    only_second: int
    p: float
    needed: int | None
    least: int


def trials(
    model: Model,
    recording: Recording,
    settings: GenerationConfig,
    seeds: Sequence[int],
    min_words: int = 3,
    on_run: Callable[[int, int], None] | None = None,
) -> Trials:
    """Run the recording once per seed, and the first seed once more. Raises ClearlineError without seeds, or with one
    seed twice."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise ClearlineError(f"trials need different seeds, got {list(seeds)}")
    runs = []
    for number, seed in enumerate([*seeds, seeds[0]]):
        runs.append(_run(model, recording, replace(settings, seed=seed), min_words))
        if on_run is not None:
            on_run(number, len(seeds) + 1)
    return Trials(runs[:-1], runs[-1], wilson(sum(run.success for run in runs[:-1]), len(seeds)))


def against(first: Trials, second: Trials) -> Against:
    """Compare two settings run by run, paired by seed."""
    pairs = list(zip(first.runs, second.runs, strict=True))
    if any(a.seed != b.seed for a, b in pairs):
        raise ClearlineError("the two sets of runs do not have the same seeds")
    only_first = sum(a.success and not b.success for a, b in pairs)
    only_second = sum(b.success and not a.success for a, b in pairs)
    return Against(
        only_first, only_second, sign_test(only_first, only_second), pairs_needed(only_first, only_second, len(pairs)),
        fewest_discordant(),
    )  # fmt: skip


def _run(model: Model, recording: Recording, settings: GenerationConfig, min_words: int) -> Run:
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    result = model.run(recording.samples, recording.rate, settings)
    success, why = judge(model, result, min_words)
    digest = hashlib.sha256(result.pcm.tobytes() + result.codes_out.tobytes() + result.text_tokens.tobytes()).hexdigest()
    return Run(
        str(uuid.uuid4()), started, settings.seed, result.seconds, result.speed, len(result.words), result.text, digest,
        success, why,
    )  # fmt: skip


def judge(model: Model, result: Result, min_words: int) -> tuple[bool, str]:
    """Whether a run succeeded, and why (not)."""
    if len(result.words) < min_words:
        return False, f"{len(result.words)} words, fewer than {min_words}"
    if model.config.dep_q == 0:
        return True, f"{len(result.words)} words (a text-only model)"
    if model.config.dep_q == 1 or result.codes_out.shape[1] < 5:
        return False, "too little sound to judge"
    versions = sweep(model.mimi, result.codes_out, (-1, 0, 1))
    own = next(version for version in versions if version.shift == 0)
    share = f"{np.nan_to_num(own.consistency.first):.0%} of its semantic codes come back"
    if own.consistency.frames == 0:
        return False, "silent"
    if own is not versions[0]:
        return False, f"misaligned: {share}, more with the acoustic codebooks moved {versions[0].shift:+d} frame"
    if max(version.p for version in versions[1:]) >= BELONGS:
        return False, f"not told from misaligned sound: {share}"
    return True, f"{len(result.words)} words, {share}"
