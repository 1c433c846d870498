"""Drawing again: Clearline's sampling noise is keyed, so its own runs can be repeated token by token from their logits."""

from dataclasses import dataclass

import numpy as np

from clearline.app import Model
from clearline.config import GenerationConfig, Sampling
from clearline.errors import ClearlineError
from clearline.generate.noise import Noise
from clearline.generate.sampler import kept_tokens, sample
from clearline.trace import Trace

# Nats by which rounded logits may turn a choice, and the share of tokens that another precision may turn in all.
ROUNDING, REDRAWN = 0.05, 0.98


@dataclass(frozen=True)
class Redraw:
    """share: of the tokens that came out the same; misses: how many of the others no rounding explains."""

    share: float
    misses: int

    @property
    def same(self) -> bool:
        return self.misses == 0 and self.share >= REDRAWN


def redrawn(
    trace: Trace, claimed: GenerationConfig, model: Model, text_logits: np.ndarray, text: np.ndarray,
    audio_logits: np.ndarray | None, audio: np.ndarray | None,
) -> Redraw | None:  # fmt: skip
    """Draw the tokens [T], [T, dep_q] again from these logits with the recorded seed; None where the run is not Clearline's
    own, or its text has a repetition penalty."""
    facts = trace.facts
    if not {"seed", "version", "alignment"} <= facts.keys() or claimed.text.repetition_penalty != 1.0:
        return None
    noise, first = Noise(int(facts["seed"])), 1 if claimed.first_frame == "twice" else 0
    forced = model.config.max_delay + 2 if claimed.pad_early_acoustic else 0
    same = total = misses = 0
    try:
        for t in range(min(len(text), len(text_logits))):
            streams: list[tuple[int, np.ndarray, int, Sampling, int | None]] = [
                (0, text_logits[t], int(text[t]), claimed.text, model.config.text_padding)
            ]
            if audio is not None and audio_logits is not None and t + first >= forced and not np.isnan(audio_logits[t]).any():
                streams += [(k + 1, row, int(audio[t, k]), claimed.audio, None) for k, row in enumerate(audio_logits[t])]
            for stream, row, token, how, padding in streams:
                drawn = sample(row, how, noise, t + first, stream, padding)
                same += drawn == token
                total += 1
                if drawn != token:
                    misses += _gap(row, how, noise, t + first, stream, drawn, token) > ROUNDING
    except ClearlineError:
        return None
    return Redraw(same / max(1, total), misses)


def _gap(logits: np.ndarray, how: Sampling, noise: Noise, frame: int, stream: int, drawn: int, token: int) -> float:
    """By how much the token drawn again beats the recorded one, in nats (greedy: in logits)."""
    if not 0 <= token < len(logits):
        return np.inf
    scores = logits.astype(np.float64)
    if how.temperature == 0:
        return float(scores[drawn] - scores[token])
    scores = (scores - scores.max()) / how.temperature
    kept = kept_tokens(scores, how)
    if token not in kept and scores[token] < scores[kept].min() - ROUNDING:
        return np.inf
    ids = np.array([drawn, token])
    values = scores[ids] - np.log(noise.exponential(frame, stream, len(scores), ids))
    return float(values[0] - values[1])
