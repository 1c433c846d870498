"""Speed: does a frame come every 80 ms? Being too slow breaks the sound up, and has nothing to do with wrong tokens."""

import numpy as np

from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding

FRAME_MS = 80.0
# Frames that a player holds back before it starts; underruns a listener would not call broken.
BUFFERED, RARE = 4, 0.03


def underruns(step_ms: np.ndarray, buffered: int = BUFFERED) -> int:
    """Frames [n] that come too late for a player that starts with `buffered` frames in hand.

    Frame i can be begun at i * 80 ms, when its input is there, and not before frame i - 1 is done; the player plays a frame
    every 80 ms, and where the next one is not there it waits for it.
    """
    ready = played = 0.0
    missed = 0
    for i, ms in enumerate(step_ms):
        ready = max(ready, i * FRAME_MS) + float(ms)
        wanted = played + FRAME_MS if i else ready + buffered * FRAME_MS
        missed += int(ready > wanted)
        played = max(wanted, ready)
    return missed


def look_at_times(step_ms: np.ndarray | None, chart: Chart, cpu_ms: np.ndarray | None = None) -> None:
    """Times of the frames in milliseconds; cpu_ms: what of them the program itself computed, where that is known."""
    if step_ms is None or len(step_ms) < 5:
        return
    times = np.asarray(step_ms, float)[1:]  # the first one compiles, allocates, warms up
    mean, p99 = float(times.mean()), float(np.percentile(times, 99))
    over = float((times > FRAME_MS).mean())
    missed = underruns(times)
    line = f"a frame takes {mean:.0f} ms on average, 1 in 100 more than {p99:.0f} ms; {over:.0%} take longer than 80 ms"
    slow = mean > FRAME_MS or missed > RARE * len(times)
    own = None if cpu_ms is None or len(cpu_ms) < 2 else np.asarray(cpu_ms, float)[1:]
    if slow and own is not None and underruns(own) <= RARE * len(own) and own.mean() < mean / 2:
        chart.found(
            Finding(
                "machine-busy",
                "note",
                "time",
                f"{line}, but only {own.mean():.0f} ms of that are the program's own: the machine is busy with something else",
                "processor time of this process against the clock",
                "end what else is running, and measure again",
                LIKELY,
            )
        )
    elif slow:
        chart.found(
            Finding(
                "too-slow",
                "too slow",
                "time",
                "the program cannot keep up: frames come too late and the sound breaks up",
                f"{line}; a player with {BUFFERED} frames in hand runs dry {missed} times in {len(times)} frames",
                "use quantised weights (--quantize q8), fewer threads or a faster backend; `clearline bench` says where the "
                "time goes",
                CERTAIN if mean > FRAME_MS else LIKELY,
            )
        )
    else:
        chart.passed("time", line)
