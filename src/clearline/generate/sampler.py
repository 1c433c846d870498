"""Sampling: argmax over the kept tokens of p / noise, in float64 on the host, the same for every backend."""

from collections.abc import Sequence

import numpy as np

from clearline.config import Sampling
from clearline.errors import SessionError
from clearline.generate.noise import Noise


def sample(
    logits: np.ndarray,
    how: Sampling,
    noise: Noise,
    frame: int,
    stream: int,
    padding: int | None = None,
    history: Sequence[int] = (),
) -> int:
    """Draw one token from logits [card].

    `padding` is the id the padding bonus goes to; `history` holds the spoken text tokens so far, newest last. Ties go to
    the lowest id. With p = softmax(logits / T), argmax p_i / e_i with e_i ~ Exp(1) draws i with probability p_i.
    Raises SessionError when the logits are not numbers.
    """
    scores = logits.astype(np.float64)
    if not np.isfinite(scores).all():
        raise SessionError(f"the logits of stream {stream} at step {frame} contain NaN or infinite values: damaged weights?")
    if how.repetition_penalty != 1.0 and history:
        recent = np.unique(np.asarray(history[-how.repetition_context :] if how.repetition_context else [], np.int64))
        recent = recent[(recent >= 0) & (recent < scores.size)]
        values = scores[recent]
        scores[recent] = np.where(values >= 0, values / how.repetition_penalty, values * how.repetition_penalty)
    if how.temperature > 0:
        # Shifted first: the best score stays 0 however small the temperature; the others may well fall to -infinity.
        with np.errstate(over="ignore"):
            scores = (scores - scores.max()) / how.temperature
    if padding is not None and how.padding_bonus:
        scores[padding] += how.padding_bonus
    if how.temperature == 0:
        return int(scores.argmax())
    kept = kept_tokens(scores, how)
    weights = np.exp(scores[kept] - scores[kept].max())
    return int(kept[(weights / noise.exponential(frame, stream, scores.size, kept)).argmax()])


def kept_tokens(scores: np.ndarray, how: Sampling) -> np.ndarray:
    """Ids, ascending, that survive top-k, then top-p, then min-p."""
    kept = np.arange(scores.size)
    if 0 < how.top_k < scores.size:
        threshold = np.partition(scores, scores.size - how.top_k)[scores.size - how.top_k]
        above = np.flatnonzero(scores > threshold)
        tied = np.flatnonzero(scores == threshold)[: how.top_k - above.size]
        kept = np.sort(np.concatenate([above, tied]))
    if 0 < how.top_p < 1:
        order = kept[np.argsort(-scores[kept], kind="stable")]
        p = np.exp(scores[order] - scores[order[0]])
        p /= p.sum()
        # A token stays while the mass before it is at most top_p: the most likely one always does.
        kept = np.sort(order[np.cumsum(p) - p <= how.top_p])
    if how.min_p > 0:
        kept = kept[scores[kept] >= scores[kept].max() + np.log(how.min_p)]
    return kept
