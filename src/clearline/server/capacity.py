"""How many conversations this machine holds, from how long its steps take."""

# Weight of a new step in the running mean: about the last 64 steps of all conversations together.
_FRESHNESS = 1 / 64


class Capacity:
    """A running mean of step times, and the share of the workers' time that a number of conversations needs."""

    def __init__(self, workers: int, frame_seconds: float, allowed_load: float, step_seconds: float) -> None:
        self.workers = workers
        self.frame_seconds = frame_seconds
        self.allowed_load = allowed_load
        self.step_seconds = step_seconds

    def observe(self, step_seconds: float) -> None:
        """One step was measured."""
        self.step_seconds += _FRESHNESS * (step_seconds - self.step_seconds)

    def load(self, sessions: int) -> float:
        """Share of the workers' time that so many conversations take; above 1 they cannot all keep up."""
        return sessions * self.step_seconds / (self.workers * self.frame_seconds)

    @property
    def sessions(self) -> int:
        """How many conversations may run; one always may, for it can break no other."""
        return max(1, int(self.allowed_load * self.workers * self.frame_seconds / max(self.step_seconds, 1e-9)))

    @property
    def keeps_up(self) -> bool:
        """Whether a single conversation runs in real time."""
        return self.step_seconds < self.frame_seconds
