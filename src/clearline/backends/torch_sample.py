"""`clearline.generate.sampler` for a batch of lanes on the device: the same rules in float64, each lane with its own settings."""

import math
from functools import cache

import torch
from torch import Tensor

from clearline.config import Sampling


class LaneSampling:
    """One stream's settings of every lane: tensors [B, 1] that a captured step reads; a filter that is off is infinite."""

    def __init__(self, lanes: int, device: torch.device) -> None:
        self._values = torch.zeros(7, lanes, dtype=torch.float64, device=device)
        self.divisor, self.ranks, self.mass, self.least, self.penalty, self.history, self.bonus = self._values[..., None]
        self.warm = torch.zeros(lanes, 1, dtype=torch.bool, device=device)

    def set(self, lane: int, how: Sampling) -> None:
        """Give a lane its settings."""
        off = math.inf
        self._values[:, lane] = torch.tensor(
            [
                how.temperature or 1.0,
                how.top_k or off,
                how.top_p if 0 < how.top_p < 1 else off,
                how.min_p or math.ulp(0.0),  # what is 0 beside the best has no chance anyway
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
    scores = logits.double()
    total = scores.sum(-1)
    sound = total - total == 0
    if spoken is not None:
        scores = _penalised(scores, how, spoken)
    scores = torch.where(how.warm, (scores - scores.amax(-1, keepdim=True)) / how.divisor, scores)
    if padding is not None:
        scores[:, padding : padding + 1] += how.bonus
    # Stable: of equal scores the lowest id comes first, and so is kept first. From here on ids are in this order.
    ordered, order = torch.sort(scores, stable=True, descending=True)
    p = torch.where(_ranks(scores.shape[1], scores.device) < how.ranks, torch.exp(ordered - ordered[:, :1]), 0.0)
    share = p / p.sum(-1, keepdim=True)
    kept = (share.cumsum(-1) - share <= how.mass) & (p >= how.least)
    drawn = torch.where(kept, p / noise.gather(1, order), -1.0).argmax(-1, keepdim=True)
    # Greedily it is the first.
    return order.gather(1, drawn * how.warm)[:, 0], sound


@cache
def _ranks(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)


def _penalised(scores: Tensor, how: LaneSampling, spoken: Tensor) -> Tensor:
    """Logits of recently spoken tokens divided by the penalty where positive, else multiplied by it."""
    size, length = scores.shape[1], spoken.shape[1]
    age = torch.arange(length - 1, -1, -1, device=spoken.device)
    known = (age < how.history) & (spoken >= 0) & (spoken < size)
    # Column `size` takes what is to be forgotten.
    recent = torch.zeros(scores.shape[0], size + 1, dtype=torch.bool, device=scores.device)
    recent = recent.scatter(1, torch.where(known, spoken, size), torch.ones_like(known))[:, :size]
    return torch.where(recent, torch.where(scores >= 0, scores / how.penalty, scores * how.penalty), scores)
