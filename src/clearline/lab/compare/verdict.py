"""What two traces have to say to each other: the first divergence, its kind, and the evidence."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from clearline.errors import ClearlineError
from clearline.lab.compare.boundaries import Difference, agreement, differences, first_difference
from clearline.lab.compare.choice import Choice, choice_at
from clearline.lab.compare.forced import Judgement
from clearline.lab.compare.layers import Layers
from clearline.lab.compare.nearest import NearestCode
from clearline.lab.compare.relation import Relation, relate
from clearline.lab.compare.sound import SoundRelation, relate_sound
from clearline.trace import BOUNDARIES, Trace

Kind = Literal["equal", "rounding", "cut", "a tie", "sampling", "a different computation", "a different input", "undecided"]
# Facts that explain a difference when they differ, with what they are facts of.
_FACTS = (
    "input",
    "weights",
    "codec_weights",
    "config",
    "seed",
    "text_sampling",
    "audio_sampling",
    "alignment",
    "backend",
    "dtype",
    "quantize",
)
# What bfloat16, which keeps 8 bits, makes of some layers.
COARSE = 0.03
_AFTER: dict[str, str] = {
    "codes_in": "the codec's encoder",
    "row": "the alignment of tokens: which token of which stream is fed at which step",
    "hidden": "the temporal transformer",
    "text_logits": "the text head",
    "audio_logits": "the depformer",
    "codes_out": "the undoing of the delays: which tokens are put together into one frame",
    "pcm_out": "the codec's decoder",
}


@dataclass(frozen=True)
class Comparison:
    """The whole report. `kind` names the first divergence; `why` is the sentence with the evidence for it: "equal" is to the
    last bit, "rounding" within the tolerance.

    agreement: per boundary of tokens, the share of equal tokens per stream. relations: per boundary of tokens with several
    streams, how B's may be had from A's; `sound` the same of pcm_out. judgements: of the tokens of A and of B, by a model that
    was fed them. forced_error: largest relative difference between a side's own logits and the other's model's along its tokens.
    layers: where the operations inside a step part, for sides that can be looked into. nearest: of codes_in that differ. facts:
    what each side says of itself.
    """

    kind: Kind
    why: str
    first: Difference | None
    choice: Choice | None
    differences: list[Difference]
    agreement: dict[str, list[float]]
    relations: dict[str, Relation]
    sound: SoundRelation | None
    other_facts: list[str]
    notes: list[str] = field(default_factory=list)
    judgements: dict[str, list[Judgement]] = field(default_factory=dict)
    forced_error: dict[str, dict[str, float]] = field(default_factory=dict)
    layers: list[Layers] = field(default_factory=list)
    nearest: NearestCode | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether every token is the same, and every number within the tolerance."""
        return self.kind in ("equal", "rounding")


def compare(a: Trace, b: Trace, tolerance: float) -> Comparison:
    """Compare two traces by what they hold; teacher forcing adds to it in `with_judgements`. Raises ClearlineError when
    they have no boundary in common."""
    found = differences(a, b, tolerance)
    if not found:
        raise ClearlineError(
            f"nothing to compare: one has {', '.join(a.columns) or 'nothing'}, the other {', '.join(b.columns) or 'nothing'}"
        )
    first = first_difference(found)
    other = [name for name in _FACTS if name in a.facts and name in b.facts and a.facts[name] != b.facts[name]]
    tokens = [d.boundary for d in found if BOUNDARIES[d.boundary].tokens and a.columns[d.boundary].ndim == 2]
    relations = {
        name: relate(a.frames(name).T, b.frames(name).T, "stream" if name == "row" else "codebook")
        for name in tokens
        if len(a.frames(name)) and len(b.frames(name))
    }
    shares = {name: agreement(a.columns[name], b.columns[name]) for name in tokens}
    if any(d.boundary == "text_token" for d in found):
        shares["text_token"] = agreement(a.columns["text_token"][:, None], b.columns["text_token"][:, None])
    sound = None
    if any(d.boundary == "pcm_out" for d in found):
        sound = relate_sound(a.frames("pcm_out"), b.frames("pcm_out"))
    kind, why, choice = _classify(a, b, found, first, other)
    related = None if first is None else relations.get(first.boundary)
    if first is not None and related is not None and related.cut is not None:
        kind, why = "cut", f"{first.boundary}: B begins at frame {related.cut} of A, and is equal from there as far as both go"
    elif first is not None and related is not None and related.disguised and kind != "sampling":
        kind = "a different input" if first.boundary == "codes_in" else "a different computation"
        where = "" if kind == "a different input" else f"{_AFTER.get(first.boundary, first.boundary)}: "
        why = f"{where}{first.boundary} differs from frame {first.frame}; {'; '.join(related.findings)}"
    notes = _notes(a, b)
    if kind == "a different computation" and first is not None and first.largest is not None and first.largest <= COARSE:
        notes.append(f"a difference of that size is also what bfloat16 rounds to: if one side computes in it, --tolerance {COARSE}")
    return Comparison(
        kind, why, first, choice, found, shares, relations, sound, other, notes, facts={"A": dict(a.facts), "B": dict(b.facts)}
    )


def _classify(
    a: Trace, b: Trace, found: list[Difference], first: Difference | None, other: list[str]
) -> tuple[Kind, str, Choice | None]:
    if first is None:
        compared = min(d.compared for d in found)
        rounding = max((d.largest for d in found if d.largest is not None), default=0.0)
        where = ", ".join(d.boundary for d in found)
        numbers = f"; numbers within {rounding:.1e} of each other" if rounding else ""
        if any(len(a.columns[d.boundary]) != len(b.columns[d.boundary]) for d in found):
            return "cut", f"equal in {where} as far as both go ({compared} steps{numbers}), then one ends", None
        if compared == 0:
            return "undecided", f"no step has a value on both sides in {where}", None
        kind: Kind = "rounding" if rounding else "equal"
        return kind, f"equal in {where} over {compared} steps{numbers}", None
    frame, name = first.frame or 0, first.boundary
    if first.shapes is not None and _prefix(a, b, name):
        few, many = sorted(shape[0] for shape in first.shapes)
        return "cut", f"{name}: one side has the first {few} of the other's {many} streams, equal as far as both go", None
    if first.shapes is not None:
        sizes = " and ".join(str(list(shape)) for shape in first.shapes)
        return "a different computation", f"{name} has the shapes {sizes} a step: these are different models or settings", None
    if name == "pcm_in" or (name == "codes_in" and "input" in other):
        return "a different input", f"{name} differs from frame {frame}", None
    if name == "codes_in" and "pcm_in" not in a.columns.keys() & b.columns and not _same(a, b, "input"):
        return (
            "a different input",
            f"codes_in differs from frame {frame}; neither samples nor input hashes say whether it is the codec",
            None,
        )
    if name == "row" and frame == 0 and _own_streams_only(a, b):
        # The first frame was stepped twice: what the first of the two steps sampled is seen only in this row.
        return _without_logits(a, b, name, frame, other)
    if name in _AFTER:
        before = _upstream(found, name, frame)
        agreed = f"; {', '.join(before)} agree up to there" if before else ""
        size = f" by {first.largest:.1e} of the largest value at most" if first.largest is not None else ""
        if not before and name != "codes_in":
            return "undecided", f"{name} differs from frame {frame}{size}, and no other boundary is there to say why", None
        return "a different computation", f"{_AFTER[name]}: {name} differs from frame {frame}{size}{agreed}", None
    choice = choice_at(a, b, name, frame)
    if choice is None:
        return _without_logits(a, b, name, frame, other)
    pair = f"{choice.stream} token {choice.token_a} against {choice.token_b} at frame {frame}"
    margins = f"margins {choice.margin_a:.2e} and {choice.margin_b:.2e}, logits differ by up to {choice.logit_gap:.1e}"
    if choice.tie:
        return "a tie", f"{pair} ({choice.how}): {margins}, which is enough to turn the choice", choice
    why = f"{pair}: the logits agree (up to {choice.logit_gap:.1e}), but another token was drawn from them"
    return "sampling", f"{why}; differing settings: {', '.join(other) or 'none recorded'}", choice


def _prefix(a: Trace, b: Trace, name: str) -> bool:
    """Whether one side has the first few streams of the other's tokens, and nothing else is different about them."""
    shares = agreement(a.columns[name], b.columns[name]) if BOUNDARIES[name].tokens and a.columns[name].ndim == 2 else []
    return bool(shares) and all(share == 1 for share in shares)


def _upstream(found: list[Difference], name: str, frame: int) -> list[str]:
    """What was compared on the way to this boundary, and agreed: earlier ones of this frame; for the row, which is made of
    earlier steps' tokens, those too."""
    order = list(BOUNDARIES)
    before = order[: order.index(name)] + (["text_token", "audio_tokens"] if name == "row" else [])
    return [d.boundary for d in found if d.boundary in before and d.compared and (d.frame is None or d.frame >= frame)]


def _without_logits(a: Trace, b: Trace, name: str, frame: int, other: list[str]) -> tuple[Kind, str, Choice | None]:
    if "input" in other:
        return "a different input", f"{name} differs from frame {frame}, and the inputs' hashes differ", None
    if {"weights", "config", "codec_weights"} & set(other):
        which = ", ".join(x for x in other if x in ("weights", "config", "codec_weights"))
        return "a different computation", f"{name} differs from frame {frame}, and so do the hashes of {which}", None
    drawn = [x for x in other if x in ("seed", "text_sampling", "audio_sampling")]
    if drawn and _same(a, b, "input") and _same(a, b, "weights"):
        return "sampling", f"{name} differs from frame {frame}; same input and weights, but another {', '.join(drawn)}", None
    hint = "neither side recorded logits; record them (--trace-logits), or give --model to force A's tokens through it"
    return "undecided", f"{name} differs from frame {frame}; {hint}", None


def _own_streams_only(a: Trace, b: Trace) -> bool:
    own = 1 + (a.columns["audio_tokens"].shape[1] if "audio_tokens" in a.columns else 0)
    return bool((a.columns["row"][0][own:] == b.columns["row"][0][own:]).all())


def _same(a: Trace, b: Trace, fact: str) -> bool:
    return fact in a.facts and a.facts.get(fact) == b.facts.get(fact)


def _notes(a: Trace, b: Trace) -> list[str]:
    notes = [f"{side} did not run to its end" for side, trace in (("A", a), ("B", b)) if not trace.complete]
    return notes


def largest_error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest |a - b| / max|a| of two arrays of one shape, NaN entries left out."""
    scale = float(np.nanmax(np.abs(a), initial=1e-30))
    return float(np.nanmax(np.abs(a.astype(np.float64) - b), initial=0.0)) / scale
