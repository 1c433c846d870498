"""Language model: are the logits, or the tokens drawn from them, what these weights give for these rows?"""

from dataclasses import dataclass

import numpy as np

from clearline.app import Model
from clearline.errors import ClearlineError
from clearline.lab.compare.forced import Forced, force, forcible, judge_tokens
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding
from clearline.lab.doctor.lm_mistakes import LMMistake, lm_mistakes
from clearline.lab.doctor.redraw import redrawn
from clearline.lab.settings import settings_of
from clearline.trace import LOGITS, Trace

# Largest |difference| of a step over the largest value: bfloat16 and 8-bit weights stay below, other computations do not.
TOLERANCE = 0.1
# Steps that tell a wrong computation from a right one; how much likelier (nats) tokens must be under a mistake.
ENOUGH, LIKELIER = 60, 20.0
# Standard deviations of surprise that a sure model's tokens reach by chance: its distributions are far from normal.
PLAUSIBLE = 8.0
# Share of steps beyond the tolerance that is no accident.
SOME = 0.05


@dataclass(frozen=True)
class Misfit:
    """How badly a model's computation fits what was recorded. errors: per boundary, per step (none: no logits were recorded);
    loss: -log likelihood in nats of the recorded tokens, text and audio, each at the temperature that suits it best."""

    errors: dict[str, np.ndarray]
    loss: float
    tokens: int

    @property
    def worst(self) -> float:
        """The boundary that fits worst: share of its steps beyond the tolerance."""
        return max((float((error > TOLERANCE).mean()) for error in self.errors.values()), default=0.0)


def look_at_model(evidence: Evidence, chart: Chart) -> Model | None:
    """Teacher forcing of the recorded rows. Returns the model as it was computed: the reference, or one with a known mistake;
    None where nothing can be said."""
    model, trace = evidence.model, evidence.trace
    if model is None or trace is None or "row" not in trace.columns or "text_token" not in trace.columns:
        return None
    try:
        rows, _, _ = forcible(model, trace)
        forced = force(model, trace)
    except ClearlineError as error:
        chart.unknown("language model", str(error))
        return None
    plain = misfit(forced, trace, model)
    if plain.errors and plain.worst <= SOME:
        worst = max(float(np.median(error)) for error in plain.errors.values())
        chart.passed("hidden, logits", f"the reference gives the recorded values over {len(rows)} steps (median error {worst:.1e})")
        return model
    if not plain.errors and plausible(forced, trace, model):
        chart.passed(
            "language model", f"the reference would draw these tokens under their settings ({len(rows)} steps, no logits recorded)"
        )
        return model
    late = bool(plain.errors) and _late(plain, model)
    suspects = [m for m in lm_mistakes(model.config) if m.late == late or not plain.errors]
    found = _search(suspects, model, trace, plain, len(rows))
    if found is None and not plain.errors:
        chart.passed(
            "language model", f"no known mistake explains the {plain.tokens} tokens better than the reference (no logits recorded)"
        )
        return model
    if found is None:
        chart.found(_unexplained(plain, model))
        return None
    mistake, fitted, wrong = found
    how = (
        f"with it made on purpose the recorded values are reproduced in {1 - fitted.worst:.0%} of the steps, without it in "
        f"{1 - plain.worst:.0%}"
        if plain.errors
        else f"the recorded tokens are e^{plain.loss - fitted.loss:.0f} times likelier with it made on purpose"
    )
    chart.found(
        Finding(
            mistake.name,
            "wrong tokens",
            "hidden" if plain.errors else "tokens",
            mistake.what,
            how,
            mistake.remedy,
            CERTAIN if plain.errors else LIKELY,
        )
    )
    return wrong


def _search(
    suspects: list[LMMistake], model: Model, trace: Trace, plain: Misfit, steps: int
) -> tuple[LMMistake, Misfit, Model] | None:
    """The mistake that fits best, if it fits."""
    best: tuple[LMMistake, Misfit, Model] | None = None
    for mistake in suspects:
        limit = None if mistake.late else min(steps, ENOUGH if plain.errors else 2 * ENOUGH)
        if mistake.late and steps <= model.config.transformer.context:
            continue
        wrong = mistake.made(model)
        fitted = misfit(force(wrong, trace, limit), trace, model)
        if plain.errors:
            if fitted.worst <= SOME:
                return mistake, fitted, wrong
            continue
        reference = plain if limit is None or limit == steps else misfit(force(model, trace, limit), trace, model)
        gain = reference.loss - fitted.loss
        if gain > LIKELIER and (best is None or gain > best[1].loss):
            best = mistake, Misfit({}, gain, fitted.tokens), wrong
    if best is None:
        return None
    whole = misfit(force(best[2], trace), trace, model)
    return best[0], whole, best[2]


def plausible(forced: Forced, trace: Trace, model: Model) -> bool:
    """Whether every stream's tokens are what the model draws under the settings that the trace, or the checkpoint, names."""
    claimed = settings_of(trace.facts) or model.generation()
    _, text, audio = forcible(model, trace)
    again = redrawn(trace, claimed, model, forced.text_logits, text, forced.audio_logits, audio)
    if again is not None and again.same:
        return True
    judged = judge_tokens(forced, trace, model, claimed)
    return all(found.impossible <= SOME * found.count and abs(found.surprise) <= PLAUSIBLE for found in judged)


def misfit(forced: Forced, trace: Trace, model: Model) -> Misfit:
    """Recorded values and tokens against those of a forced run, over the steps that it has."""
    steps = len(forced.hidden)
    errors = {}
    for name in sorted(LOGITS & trace.columns.keys()):
        ours: np.ndarray | None = getattr(forced, name)
        theirs = trace.columns[name][:steps]
        if ours is not None and ours[: len(theirs)].shape == theirs.shape:
            errors[name] = _errors(ours[: len(theirs)], theirs)
    _, text, audio = forcible(model, trace)
    loss = _loss(forced.text_logits, text[:steps])
    if audio is not None and forced.audio_logits is not None:
        loss += _loss(forced.audio_logits.reshape(-1, forced.audio_logits.shape[-1]), audio[:steps].reshape(-1))
    return Misfit(errors, loss, steps)


def _errors(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Per step, the largest |difference| over the largest |value| of the reference; steps without a value left out."""
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (ours, theirs))
    known = ~np.isnan(b).any(1) & ~np.isnan(a).any(1)
    a, b = a[known], b[known]
    return np.abs(a - b).max(1) / np.maximum(np.abs(a).max(1), 1e-30) if len(a) else np.zeros(0)


def _loss(logits: np.ndarray, tokens: np.ndarray) -> float:
    return float(min(loss_at(logits, tokens, t) for t in (0.25, 0.5, 0.8, 1.0, 1.5, 3.0)))


def loss_at(logits: np.ndarray, tokens: np.ndarray, temperature: float) -> float:
    """-log likelihood in nats of tokens [n] under logits [n, card] at a temperature; a token costs 30 at most."""
    inside = (tokens >= 0) & (tokens < logits.shape[1])
    z = logits[inside].astype(np.float64) / temperature
    z -= z.max(1, keepdims=True)
    log_p = z[np.arange(len(z)), tokens[inside]] - np.log(np.exp(z).sum(1))
    return float(-np.maximum(log_p, -30.0).sum()) + 30.0 * float((~inside).sum())


def _late(plain: Misfit, model: Model) -> bool:
    """Whether everything fits until the attention window is full."""
    full = model.config.transformer.context - 2
    return all(len(error) > full + 5 and float((error[:full] > TOLERANCE).mean()) <= SOME / 2 for error in plain.errors.values())


def _unexplained(plain: Misfit, model: Model) -> Finding:
    hidden = plain.errors.get("hidden")
    if hidden is not None and float((hidden > TOLERANCE).mean()) > SOME:
        first = int((hidden > TOLERANCE).argmax())
        where, begin = "the temporal transformer", f"from step {first} on"
    elif "text_logits" in plain.errors and float((plain.errors["text_logits"] > TOLERANCE).mean()) > SOME:
        where, begin = "the text head", "while the hidden states agree"
    else:
        where, begin = "the depformer or its heads", "while hidden states and text logits agree"
    shares = ", ".join(f"{name} {float((error > TOLERANCE).mean()):.0%}" for name, error in plain.errors.items())
    return Finding(
        "unexplained-language-model",
        "wrong tokens",
        "hidden",
        f"{where} computes something else than these weights say, {begin}",
        f"share of steps in which recorded values differ from the reference by more than {TOLERANCE:.0%}: {shares}; none of "
        f"the known "
        "mistakes reproduces them",
        "compare layer by layer with `clearline compare`; check that the weights are the ones named",
        LIKELY,
    )
