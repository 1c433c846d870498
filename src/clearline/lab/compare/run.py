"""A whole comparison: what the traces say, and what a model says about their tokens."""

from dataclasses import replace

import numpy as np

from clearline.app import Model
from clearline.config import PRESETS, GenerationConfig
from clearline.errors import ClearlineError
from clearline.lab.adapters import Peer
from clearline.lab.compare.forced import Forced, Judgement, force, judge_tokens
from clearline.lab.compare.layers import PARTS, Part, compare_layers, probe_model
from clearline.lab.compare.nearest import nearest_code
from clearline.lab.compare.verdict import Comparison, compare, largest_error
from clearline.lab.live import Live, Side, open_side, replace_name, run_codec
from clearline.lab.settings import settings_of
from clearline.trace import LOGITS, Trace


def compare_sides(a: Side, b: Side, tolerance: float, model: Model | None = None, layers: bool = False) -> Comparison:
    """Compare two sides. Where a model is at hand (`model`, or a side's own), both sides' tokens are also forced through
    it: A's through B's, B's through A's. Where both can be looked into, the step in which they part is compared layer by
    layer; with `layers`, all parts of the last step when nothing differs."""
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
    return _looked_into(_decided(found), a, b, tolerance, layers)


def _looked_into(found: Comparison, a: Side, b: Side, tolerance: float, always: bool) -> Comparison:
    """The layers of the step in which two sides part, and how near their codes were to each other."""
    first, notes = found.first, found.notes
    if first is not None and first.boundary == "codes_in" and found.kind == "a different computation":
        found = _with_nearest(found, a, b, tolerance)
    sides = [side for side in (a, b) if side.model is not None or side.look is not None]
    wanted: dict[Part, int] = {}
    if first is not None and first.frame is not None and first.shapes is None and first.boundary in PARTS:
        wanted = {PARTS[first.boundary]: first.frame}
    elif always and found.equal:
        last = min(a.trace.steps, b.trace.steps) - 1
        wanted = dict.fromkeys(PARTS.values(), last)
    if always and len(sides) < 2:
        notes = [*notes, "layers cannot be compared: that takes two sides out of run:, peer:moshi and peer:moshi_mlx"]
    compared = []
    for part, frame in wanted.items() if len(sides) == 2 else ():
        try:
            looks = [_look(side, part, frame) for side in sides]
            compared.append(compare_layers(part, frame, looks[0], looks[1], tolerance))
        except ClearlineError as error:
            notes = [*notes, f"the layers of the {part} were not compared: {error}"]
    return replace(found, layers=compared, notes=notes)


def _look(side: Side, part: Part, frame: int) -> dict[str, np.ndarray]:
    if side.model is not None:
        return probe_model(side.model, side.trace, part, frame)
    assert side.look is not None
    return side.look(frame)


def _with_nearest(found: Comparison, a: Side, b: Side, tolerance: float) -> Comparison:
    """Codes that differ, of the same samples: a tie, or not."""
    model, pcm = a.model or b.model, a.trace.columns.get("pcm_in")
    if found.first is None or found.first.frame is None or found.first.shapes is not None or model is None or pcm is None:
        return found
    t = found.first.frame
    near = nearest_code(model.mimi, pcm[: t + 1], a.trace.columns["codes_in"][t], b.trace.columns["codes_in"][t])
    pair = f"codes {near.code_a} and {near.code_b} of codebook {near.codebook} at frame {near.frame}"
    if near.turn <= tolerance:
        why = f"{pair} are equally near: a change of the latent by {near.turn:.1e} of its size turns one into the other"
        return replace(found, kind="a tie", why=why, nearest=near)
    why = f"{found.why}; {pair} are no tie: to turn one into the other takes {near.turn:.1e} of the latent's size"
    return replace(found, why=why, nearest=near)


def compare_peer(peer: Peer, live: Live, tolerance: float, layers: bool = False) -> Comparison:
    """Clearline (A) against a peer (B) on one input, aligned as the peer aligns, greedy. Raises ClearlineError when the
    peer cannot run."""
    other = open_side(f"peer:{peer.name}", live)
    if peer.settings is None:
        # A codec: as many codebooks as the peer has.
        codebooks = other.trace.columns["codes_in"].shape[1]
        ours = Side("run:codec", replace_name(run_codec(live, codebooks), "run:codec"))
    else:
        ours = open_side("run:onnx", replace(live, settings=peer.settings))
    return compare_sides(ours, other, tolerance, layers=layers)


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
