"""When a frame is due, and what became of it: one account per conversation."""

from dataclasses import dataclass, field

NOT_YET = float("-inf")


@dataclass(frozen=True)
class Fate:
    """What became of a frame. late: answered after it was due; underrun, stall: the reply had run dry before it, by the
    machine's fault or by the client's."""

    late: bool
    underrun: bool = False
    stall: bool = False


@dataclass
class Span:
    """Mean and worst of times, of however many: nothing grows."""

    count: int = 0
    total: float = 0.0
    worst: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.worst = max(self.worst, seconds)


@dataclass
class Times:
    """What frames took: the model's work, and from heard to answered."""

    steps: Span = field(default_factory=Span)
    latencies: Span = field(default_factory=Span)

    def milliseconds(self) -> dict[str, float]:
        out = {}
        for name, span in (("step_ms", self.steps), ("latency_ms", self.latencies)):
            out[name] = round(1000 * span.total / max(1, span.count), 1)
            out[f"worst_{name}"] = round(1000 * span.worst, 1)
        return out


@dataclass
class Account:
    """Frames of one conversation. All times in seconds of one monotonic clock.

    Frame n is due one frame length after it could have been started, and never sooner than one frame length after frame n-1
    was: a client that sends a burst, or faster than real time, puts its own frames off and nobody else's.

    missed: frames that were ready after they were due. underruns: times the reply had run dry at a client that plays it as
    it comes with one frame in reserve; stalls: times it had run dry because the client's own sound came late.
    """

    frame_seconds: float
    frames: int = 0
    missed: int = 0
    underruns: int = 0
    stalls: int = 0
    _due: float = 0.0
    _needed: float = NOT_YET  # when the player needs the next frame
    _recent: Times = field(default_factory=Times)
    _all: Times = field(default_factory=Times)

    def due(self, ready: float) -> float:
        """The time by which the next frame, which could be started at `ready`, has to be answered."""
        self._due = max(ready, self._due) + self.frame_seconds
        return self._due

    def answered(self, ready: float, now: float, step_seconds: float, has_sound: bool) -> Fate:
        """Book the frame that was last given its due time."""
        dry = has_sound and self._runs_dry(now)
        by_client = dry and ready > self._needed - self.frame_seconds
        fate = Fate(now > self._due, underrun=dry and not by_client, stall=by_client)
        if dry:
            self._needed = now + self.frame_seconds
        self.frames += 1
        self.missed += fate.late
        self.underruns += fate.underrun
        self.stalls += fate.stall
        for times in (self._recent, self._all):
            times.steps.add(step_seconds)
            times.latencies.add(now - ready)
        return fate

    def _runs_dry(self, now: float) -> bool:
        """Whether a player with one frame in reserve had nothing left when this frame came; the first fills the reserve."""
        if self._needed == NOT_YET:
            self._needed = now
        self._needed += self.frame_seconds
        return now > self._needed

    def recent(self) -> dict[str, float]:
        """The counts so far; mean and worst step and latency since the last call, in milliseconds."""
        times, self._recent = self._recent, Times()
        return self._counts() | times.milliseconds()

    def whole(self) -> dict[str, float]:
        """The same for all of the conversation."""
        return self._counts() | self._all.milliseconds()

    def _counts(self) -> dict[str, float]:
        return {"frames": self.frames, "missed": self.missed, "underruns": self.underruns, "stalls": self.stalls}
