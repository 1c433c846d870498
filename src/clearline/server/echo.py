"""Does the microphone hear the loudspeaker? By the cross-correlation of what was played and what was heard."""

from collections import deque

import numpy as np

# Two sounds that have nothing to do with each other stay below 0.15 over this time; a loudspeaker in the same room as the
# microphone reaches 0.4 and more while nobody talks over it.
WINDOW_SECONDS = 2.0
ECHO = 0.3
_QUIETEST_DB = -55.0


class EchoDetector:
    """Keeps the last two seconds of both directions. `add` is cheap and may be called on a thread of the sound card."""

    def __init__(self, sample_rate: int, frame_size: int) -> None:
        self._frames = int(WINDOW_SECONDS * sample_rate / frame_size)
        self._pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self._frames)

    def add(self, heard: np.ndarray, played: np.ndarray) -> None:
        """What came in, and what went out at the same time: float32 [frame_size] each."""
        self._pairs.append((heard, played))

    def echo(self) -> bool:
        """Whether the last two seconds hold an echo; some milliseconds of work. Silence and too little sound hold none."""
        pairs = list(self._pairs)
        if len(pairs) < self._frames:
            return False
        heard, played = (np.concatenate(side) for side in zip(*pairs, strict=True))
        powers = float(np.mean(np.square(heard))), float(np.mean(np.square(played)))
        if min(powers) < 10 ** (_QUIETEST_DB / 10):
            return False
        size = 2 * len(heard)  # room for every lag, without wrapping
        crossed = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size)), size)
        later = crossed[: len(heard) // 2]  # an echo comes after its sound, and within a second
        return bool(np.abs(later).max() / (len(heard) * np.sqrt(powers[0] * powers[1])) > ECHO)
