"""What every benchmark shares: the machine, its measured memory bandwidth, and medians of timed steps."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Times:
    """Milliseconds of the timed steps."""

    median: float
    p99: float
    best: float
    steps: int

    def __str__(self) -> str:
        return f"{self.median:.1f} ms (best {self.best:.1f}, p99 {self.p99:.1f}, {self.steps} steps)"


def timed(step: Callable[[], object], steps: int = 50, warmup: int = 5) -> Times:
    """Time `step` after a warm-up."""
    for _ in range(warmup):
        step()
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        taken.append((time.perf_counter() - start) * 1e3)
    return summary(taken)


def summary(milliseconds: list[float]) -> Times:
    values = np.array(milliseconds)
    return Times(float(np.median(values)), float(np.percentile(values, 99)), float(values.min()), len(values))


def machine() -> str:
    """One line: processor, cores, date."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    cores = len([line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")])
    load = Path("/proc/loadavg").read_text().split()[0]
    return f"{cpu}, {cores} cores, {platform.system()} {platform.machine()}, load {load} at start, {date.today().isoformat()}"
