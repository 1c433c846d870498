"""When a frame is due, and what became of it: one account per conversation."""

from dataclasses import dataclass, field


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
    _needed: float | None = None
    _steps: list[float] = field(default_factory=list)
    _latencies: list[float] = field(default_factory=list)

    def due(self, ready: float) -> float:
        """The time by which the next frame, which could be started at `ready`, has to be answered."""
        self._due = max(ready, self._due) + self.frame_seconds
        return self._due

    def answered(self, ready: float, now: float, step_seconds: float, has_sound: bool) -> bool:
        """Book the frame that was last given its due time; True when it came too late."""
        late = now > self._due
        self.frames += 1
        self.missed += late
        self._steps.append(step_seconds)
        self._latencies.append(now - ready)
        if has_sound:
            self._play(ready, now)
        return late

    def _play(self, ready: float, now: float) -> None:
        if self._needed is not None:
            self._needed += self.frame_seconds
            if now > self._needed:
                if ready > self._needed - self.frame_seconds:
                    self.stalls += 1
                else:
                    self.underruns += 1
                self._needed = None
        if self._needed is None:
            self._needed = now + self.frame_seconds

    def recent(self) -> dict[str, float]:
        """Mean and worst step and latency since the last call, in milliseconds, with the counts so far."""
        out: dict[str, float] = {
            "frames": self.frames, "missed": self.missed, "underruns": self.underruns, "stalls": self.stalls
        }  # fmt: skip
        for name, values in (("step_ms", self._steps), ("latency_ms", self._latencies)):
            out[name] = round(1000 * sum(values) / max(1, len(values)), 1)
            out[f"worst_{name}"] = round(1000 * max(values, default=0.0), 1)
            values.clear()
        return out
