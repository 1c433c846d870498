"""The text stream's rhythm, and whether the audio moves when the text speaks."""

from dataclasses import dataclass

import numpy as np

FRAMES_PER_SECOND = 12.5
# Frames around a text token that count as speech: a word of Moshi's text lies within about half a second of its sound.
_REACH = 6
_FEWEST = 50


@dataclass(frozen=True)
class Rhythm:
    """Text tokens [T]: shares of padding, of end-of-padding and of spoken tokens; spoken tokens a second in each third of
    the run; the longest stretch without any, in frames."""

    steps: int
    padding: float
    end_padding: float
    spoken: float
    per_second: tuple[float, float, float]
    longest_silence: int


def rhythm(text: np.ndarray, padding: int = 3, end_padding: int = 0) -> Rhythm:
    """Measure text tokens [T], T > 0. Tokens below 0 (none yet) count as silence."""
    spoken = (text >= 0) & (text != padding) & (text != end_padding)
    thirds = [float(part.mean() * FRAMES_PER_SECOND) if len(part) else 0.0 for part in np.array_split(spoken, 3)]
    gaps = np.diff(np.concatenate([[-1], np.flatnonzero(spoken), [len(text)]])) - 1
    return Rhythm(
        len(text), float((text == padding).mean()), float((text == end_padding).mean()), float(spoken.mean()),
        (thirds[0], thirds[1], thirds[2]), int(gaps.max()),
    )  # fmt: skip


@dataclass(frozen=True)
class Coupling:
    """Correlation between "the text speaks" and "the audio codes change", per frame; p: the share of circular shifts of
    one against the other that correlate at least as well, which is what chance would do to streams of this kind."""

    correlation: float
    p: float


def coupling(text: np.ndarray, codes: np.ndarray, padding: int = 3, end_padding: int = 0) -> Coupling | None:
    """Text [T] against codes [T, K]; None when the run is short, or one of the two never varies."""
    length = min(len(text), len(codes))
    if length < _FEWEST:
        return None
    spoken = ((text >= 0) & (text != padding) & (text != end_padding))[:length].astype(float)
    speech = np.convolve(spoken, np.ones(2 * _REACH + 1), "same") > 0
    change = np.concatenate([[0.0], (codes[1:length] != codes[: length - 1]).mean(1)])
    x, y = speech - speech.mean(), change - change.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if scale == 0:
        return None
    # Every circular shift at once; the first is the observed one.
    shifted = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(y)), length) / scale
    return Coupling(float(shifted[0]), float((shifted >= shifted[0] - 1e-12).mean()))
