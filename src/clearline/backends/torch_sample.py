"""`clearline.generate.sampler` for a batch of lanes on the device: the same rules in float64, each lane with its own settings."""

import math

import torch
from torch import Tensor

from clearline.config import Sampling


class LaneSampling:
    """One stream's settings of every lane: tensors [B, 1] that a captured step reads; a filter that is off is infinite."""

    def __init__(self, lanes: int, device: torch.device) -> None:
        self._values = torch.zeros(7, lanes, dtype=torch.float64, device=device)
        self.divisor, self.ranks, self.mass, self.margin, self.penalty, self.history, self.bonus = self._values[..., None]
        self.warm = torch.zeros(lanes, 1, dtype=torch.bool, device=device)

    def set(self, lane: int, how: Sampling) -> None:
        """Give a lane its settings."""
        off = math.inf
        self._values[:, lane] = torch.tensor(
            [
                how.temperature or 1.0,
                how.top_k or off,
                how.top_p if 0 < how.top_p < 1 else off,
                math.log(how.min_p) if how.min_p > 0 else -off,
                how.repetition_penalty,
                how.repetition_context,
                how.padding_bonus,
            ],
            dtype=torch.float64,
        )
        self.warm[lane] = how.temperature > 0


def sample(
    logits: Tensor, how: LaneSampling, noise: Tensor, padding: int | None = None, spoken: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one token a lane: int64 [B], and whether the logits are numbers, bool [B].

    logits [B, card] of any float type; noise Exp(1) float64 [B, card]; `padding` is the id of the padding bonus; `spoken`
    int64 [B, R] the spoken text tokens, the newest last, -1 where there is none.
    """
    given = logits.double()
    sound = torch.isfinite(given).all(-1)
    scores = torch.where(sound[:, None], given, 0.0)
    if spoken is not None:
        scores = _penalised(scores, how, spoken)
    scores = torch.where(how.warm, (scores - scores.amax(-1, keepdim=True)) / how.divisor, scores)
    if padding is not None:
        scores[:, padding : padding + 1] += how.bonus
    greedy = scores.argmax(-1)
    kept = _kept(scores, how)
    best = scores.masked_fill(~kept, -torch.inf).amax(-1, keepdim=True)
    drawn = (torch.exp(scores - best) / noise).masked_fill(~kept, -1.0).argmax(-1)
    return torch.where(how.warm[:, 0], drawn, greedy), sound


def _penalised(scores: Tensor, how: LaneSampling, spoken: Tensor) -> Tensor:
    """Logits of recently spoken tokens divided by the penalty where positive, else multiplied by it."""
    size, length = scores.shape[1], spoken.shape[1]
    age = torch.arange(length - 1, -1, -1, device=spoken.device)
    known = (age < how.history) & (spoken >= 0) & (spoken < size)
    # Column `size` takes what is to be forgotten.
    recent = torch.zeros(scores.shape[0], size + 1, dtype=torch.bool, device=scores.device)
    recent = recent.scatter(1, torch.where(known, spoken, size), torch.ones_like(known))[:, :size]
    return torch.where(recent, torch.where(scores >= 0, scores / how.penalty, scores * how.penalty), scores)


def _kept(scores: Tensor, how: LaneSampling) -> Tensor:
    """Which ids survive top-k, then top-p, then min-p: bool [B, card]."""
    # Stable: of equal scores the lowest id comes first, and so is kept first.
    ordered, order = torch.sort(scores, stable=True, descending=True)
    kept = torch.arange(scores.shape[1], device=scores.device) < how.ranks
    p = torch.exp(ordered - ordered[:, :1]).masked_fill(~kept, 0.0)
    p = p / p.sum(-1, keepdim=True)
    kept = kept & (p.cumsum(-1) - p <= how.mass) & (ordered >= ordered[:, :1] + how.margin)
    return torch.zeros_like(kept).scatter(1, order, kept)
