"""How many conversations this machine holds, from how long the steps of each model take."""

import math
from collections.abc import Iterable

# Weight of a new step in the running mean: about the last 64 steps of all conversations with the model.
_FRESHNESS = 1 / 64
# A frame may come when a step of its batch has just begun: it waits for that one, for those that come with it (3 ms), and for its
# own. At the usual load of 0.75 that fills 80 ms: steps of 37.5 ms.
_IN_TURN = 1.6


class Cost:
    """What a conversation with one model takes: a running mean of its step times, against the length of a frame.

    `lanes`: a step is that of a batch, and takes as long for one conversation as for so many.
    """

    def __init__(self, step_seconds: float, frame_seconds: float, lanes: int = 1) -> None:
        self.step_seconds = step_seconds
        self.frame_seconds = frame_seconds
        self.lanes = lanes

    def observe(self, step_seconds: float) -> None:
        """One step was measured."""
        self.step_seconds += _FRESHNESS * (step_seconds - self.step_seconds)

    @property
    def share(self) -> float:
        """The share of one worker's time; above 1 the conversation cannot keep up."""
        return max(self.step_seconds, 1e-9) / self.frame_seconds

    @property
    def keeps_up(self) -> bool:
        """Whether a single conversation runs in real time."""
        return self.step_seconds < self.frame_seconds


class Capacity:
    """The workers' time, of which `allowed_load` is given away."""

    def __init__(self, workers: int, allowed_load: float) -> None:
        self.workers = workers
        self.allowed_load = allowed_load

    def load(self, taken: Iterable[Cost]) -> float:
        """Share of the workers' time that these conversations take together; above 1 they cannot all keep up."""
        taken = list(taken)
        batches = {id(cost): cost for cost in taken if cost.lanes > 1}
        return sum(cost.share for cost in (*batches.values(), *(cost for cost in taken if cost.lanes == 1))) / self.workers

    def more(self, cost: Cost, taken: Iterable[Cost]) -> int:
        """How many more conversations of this cost there is time for; one always, when there are none: it can break no other."""
        taken = list(taken)
        if cost.lanes > 1:
            mine = sum(other is cost for other in taken)
            if _IN_TURN * self.load([*taken, cost]) <= self.allowed_load:
                return cost.lanes - mine
            return 0 if taken else 1
        left = (self.allowed_load - self.load(taken)) * self.workers
        # A hair more, so that what fits exactly is not lost to rounding.
        return max(0 if taken else 1, math.floor(left / cost.share + 1e-6))
