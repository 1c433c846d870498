"""Two different tokens out of (nearly) the same logits: a tie, another draw, or another computation?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clearline.generate.noise import Noise
from clearline.trace import Trace


@dataclass(frozen=True)
class Choice:
    """The first step at which the tokens of one stream differ, with what each side's logits say about the two.

    margin_a: how far A's logits put A's token above B's; margin_b: B's logits, B's token above A's (both in logits; with
    shared sampling noise, of logits minus temperature times the noise's logarithm). logit_gap: largest |difference|
    of the two sides' logits there. how: "greedy", "same noise" or "other noise".
    """

    stream: str
    frame: int
    token_a: int
    token_b: int
    margin_a: float
    margin_b: float
    logit_gap: float
    how: str

    @property
    def tie(self) -> bool:
        """Whether the gap between the logits is enough to turn A's choice into B's (each logit moves by the gap at most)."""
        return self.how != "other noise" and self.margin_a <= 2 * self.logit_gap * (1 + 1e-6) + 1e-12


def choice_at(a: Trace, b: Trace, boundary: str, frame: int) -> Choice | None:
    """The choice behind a difference at `text_token` or `audio_tokens`; None where either side's logits are not known."""
    logits = "text_logits" if boundary == "text_token" else "audio_logits"
    if logits not in a.columns or logits not in b.columns or max(frame, 0) >= min(len(a.columns[logits]), len(b.columns[logits])):
        return None
    x, y = (np.atleast_1d(trace.columns[boundary][frame]) for trace in (a, b))
    k = int(np.flatnonzero(x != y)[0])
    rows = [np.atleast_2d(trace.columns[logits][frame])[k].astype(np.float64) for trace in (a, b)]
    token_a, token_b = int(x[k]), int(y[k])
    if not all(0 <= token < len(row) for token in (token_a, token_b) for row in rows) or np.isnan(rows).any():
        return None
    gap = float(np.abs(rows[0] - rows[1]).max())
    stream = 0 if boundary == "text_token" else k + 1
    how, scores = _scores(a, b, boundary, stream, frame, rows)
    return Choice(
        "text" if stream == 0 else f"audio {k}", frame, token_a, token_b, float(scores[0][token_a] - scores[0][token_b]),
        float(scores[1][token_b] - scores[1][token_a]), gap, how,
    )  # fmt: skip


def _scores(a: Trace, b: Trace, boundary: str, stream: int, frame: int, rows: list[np.ndarray]) -> tuple[str, list[np.ndarray]]:
    """What each side's sampler took the maximum of, as far as it is known."""
    if all(_greedy(trace, boundary, frame) for trace in (a, b)):
        return "greedy", rows
    how = shared_sampling(a.facts, b.facts, "text_sampling" if stream == 0 else "audio_sampling")
    if how is None:
        return "other noise", rows
    # With the first frame stepped twice, the recorded steps are those from 1 on.
    step = frame + (1 if a.facts["alignment"]["first_frame"] == "twice" else 0)
    noise = Noise(int(a.facts["seed"])).exponential(step, stream, len(rows[0]), np.arange(len(rows[0])))
    return "same noise", [row - float(how["temperature"]) * np.log(noise) for row in rows]


def shared_sampling(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The settings of a stream, where both runs drew it with Clearline's keyed noise of one seed; or None."""
    same = all({key, "version", "seed", "alignment"} <= facts.keys() for facts in (a, b))
    if not same or a["seed"] != b["seed"] or a[key] != b[key] or a.get("alignment") != b.get("alignment"):
        return None
    how: Mapping[str, Any] = a[key]
    return how


def _greedy(trace: Trace, boundary: str, frame: int) -> bool:
    """Whether every token so far was the best of its logits."""
    logits = trace.columns["text_logits" if boundary == "text_token" else "audio_logits"][: frame + 1]
    tokens = trace.columns[boundary][: frame + 1]
    if "temperature" in (how := trace.facts.get("text_sampling" if boundary == "text_token" else "audio_sampling", {})):
        return bool(how["temperature"] == 0)
    flat, chosen = logits.reshape(-1, logits.shape[-1]), tokens.reshape(-1)
    known = ~np.isnan(flat).any(1) & (chosen >= 0) & (chosen < flat.shape[1])
    return bool((flat[known].argmax(1) == chosen[known]).all())
