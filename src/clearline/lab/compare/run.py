"""A whole comparison: what the traces say, and what a model says about their tokens."""

from dataclasses import replace

import numpy as np

from clearline.app import Model
from clearline.config import PRESETS, GenerationConfig
from clearline.errors import ClearlineError
from clearline.lab.adapters import Peer
from clearline.lab.compare.forced import Forced, Judgement, force, judge_tokens
from clearline.lab.compare.verdict import Comparison, compare, largest_error
from clearline.lab.live import Live, Side, open_side, replace_name, run_codec
from clearline.lab.settings import settings_of
from clearline.trace import LOGITS, Trace


def compare_sides(a: Side, b: Side, tolerance: float, model: Model | None = None) -> Comparison:
    """Compare two sides. Where a model is at hand (`model`, or a side's own), both sides' tokens are also forced through
    it: A's through B's, B's through A's."""
    found = compare(a.trace, b.trace, tolerance)
    judges = {"A": b.model or model or a.model, "B": a.model or model or b.model}
    for name, side in (("A", a), ("B", b)):
        judge = judges[name]
        if judge is None:
            continue
        try:
            found = _judged(found, name, side.trace, judge, judge is not side.model)
        except ClearlineError as error:
            found = replace(found, notes=[*found.notes, f"{name}'s tokens were not forced through a model: {error}"])
    return _decided(found)


def compare_peer(peer: Peer, live: Live, tolerance: float) -> Comparison:
    """Clearline (A) against a peer (B) on one input, aligned as the peer aligns, greedy. Raises ClearlineError when the
    peer cannot run."""
    other = open_side(f"peer:{peer.name}", live)
    if peer.settings is None:
        # A codec: as many codebooks as the peer has.
        codebooks = other.trace.columns["codes_in"].shape[1]
        ours = Side("run:codec", replace_name(run_codec(live, codebooks), "run:codec"))
    else:
        ours = open_side("run:onnx", replace(live, settings=peer.settings))
    return compare_sides(ours, other, tolerance)


def _judged(found: Comparison, name: str, trace: Trace, model: Model, foreign: bool) -> Comparison:
    forced = force(model, trace)
    settings = settings_of(trace.facts)
    judgements = judge_tokens(forced, trace, model, settings or _guessed(forced, trace, model))
    errors: dict[str, float] = {}
    for boundary in sorted(LOGITS & trace.columns.keys()) if foreign else ():
        values: np.ndarray | None = getattr(forced, boundary)
        column = trace.columns[boundary]
        if values is not None and values.shape == column.shape:
            errors[boundary] = largest_error(column, values)
    notes = found.notes
    if settings is None:
        notes = [*notes, f"{name} does not say how it was sampled: judged by the preset that fits it best"]
    every = found.forced_error | ({name: errors} if errors else {})
    return replace(found, judgements=found.judgements | {name: judgements}, forced_error=every, notes=notes)


def _guessed(forced: Forced, trace: Trace, model: Model) -> GenerationConfig:
    """The preset under which the fewest tokens are impossible and the surprise is smallest."""

    def misfit(config: GenerationConfig) -> tuple[int, float]:
        judged = judge_tokens(forced, trace, model, config)
        return sum(j.impossible for j in judged), sum(abs(j.surprise) for j in judged)

    return min(PRESETS.values(), key=misfit)


def _decided(found: Comparison) -> Comparison:
    """Token traces alone cannot tell sampling from model; the judgements can."""
    if found.kind != "undecided" or found.first is None or found.first.boundary not in ("row", "text_token", "audio_tokens"):
        return found
    if set(found.judgements) != {"A", "B"}:
        return found
    odd = {name: _implausible(judged) for name, judged in found.judgements.items()}
    where = f"{found.first.boundary} differs from frame {found.first.frame}"
    if not any(odd.values()):
        why = f"{where}; both sides' tokens are what this model draws under their settings: the same model, another draw"
        return replace(found, kind="sampling", why=why)
    which = "; ".join(f"{name}'s {judgement.stream} tokens are not this model's ({describe(judgement)})"
                      for name, judgement in odd.items() if judgement is not None)  # fmt: skip
    return replace(found, kind="a different computation", why=f"{where}; {which}")


def _implausible(judged: list[Judgement]) -> Judgement | None:
    """The stream that fits worst, if any does not fit."""
    odd = [judgement for judgement in judged if not judgement.plausible]
    return max(odd, key=lambda judgement: (judgement.impossible, abs(judgement.surprise)), default=None)


def describe(judgement: Judgement) -> str:
    """A judgement's numbers in words."""
    if judgement.impossible:
        return (
            f"{judgement.impossible} of {judgement.count} could not have been drawn, the first at step {judgement.first_impossible}"
        )
    return f"surprise {judgement.surprise:+.1f} standard deviations, {judgement.best:.0%} the likeliest token"
