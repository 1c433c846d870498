"""Is one sound the other in disguise: later, louder, turned over, or reversed?"""

from dataclasses import dataclass

import numpy as np

# Of the normalised cross-correlation: 0.99 leaves 2% of the power unexplained, rounding to 16 bits far less.
SAME = 0.99


@dataclass(frozen=True)
class SoundRelation:
    """b[n] = gain * a'[n - lag], where a' is A, or A reversed, or A with each frame reversed; lag in samples.

    correlation: normalised cross-correlation at that lag, 1 when that is all there is to it. `finding` says it in words.
    """

    correlation: float
    lag: int
    gain: float
    transform: str
    finding: str


def relate_sound(a: np.ndarray, b: np.ndarray) -> SoundRelation | None:
    """Compare two sounds [frames, frame_size]; None when either is silent. The simplest of equally good answers wins."""
    if not len(a) or not len(b) or not np.any(a) or not np.any(b):
        return None
    reach = 4 * a.shape[1]
    sound = b.reshape(-1).astype(np.float64)
    forms = {
        "": a,
        "reversed in time": a.reshape(-1)[::-1],
        "with the samples of each frame reversed": a[:, ::-1],
        "with its frames in reverse order": a[::-1],
    }
    best: SoundRelation | None = None
    for transform, form in forms.items():
        lag, correlation, gain = _align(form.reshape(-1).astype(np.float64), sound, reach)
        if best is None or abs(correlation) > abs(best.correlation) + 1e-6:
            best = SoundRelation(correlation, lag, gain, transform, _words(lag, correlation, gain, transform))
    return best


def _align(a: np.ndarray, b: np.ndarray, reach: int) -> tuple[int, float, float]:
    """The lag within +-reach with the largest |correlation|, that correlation, and the gain of least squares."""
    size = 1 << int(np.ceil(np.log2(len(a) + len(b))))
    products = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)
    lags = np.arange(-min(reach, len(a) - 1), min(reach, len(b) - 1) + 1)
    power_a, power_b = (np.concatenate([[0.0], np.cumsum(x**2)]) for x in (a, b))
    begin_b, begin_a = np.maximum(lags, 0), np.maximum(-lags, 0)
    length = np.minimum(len(a) - begin_a, len(b) - begin_b)
    energy_a = power_a[begin_a + length] - power_a[begin_a]
    energy_b = power_b[begin_b + length] - power_b[begin_b]
    # A lag that leaves nearly nothing to compare is no evidence: at least half of the shorter sound must overlap.
    enough = (length >= min(len(a), len(b)) // 2) & (energy_a > 0) & (energy_b > 0)
    correlation = np.where(enough, products[lags] / np.sqrt(np.maximum(energy_a * energy_b, 1e-30)), 0.0)
    # Of equally good lags (within rounding) the shortest.
    top = np.flatnonzero(np.abs(correlation) >= np.abs(correlation).max() - 1e-9)
    at = top[np.abs(lags[top]).argmin()]
    return int(lags[at]), float(correlation[at]), float(products[lags[at]] / max(energy_a[at], 1e-30))


def _words(lag: int, correlation: float, gain: float, transform: str) -> str:
    if abs(correlation) < SAME:
        return f"the sounds differ (best correlation {abs(correlation):.2f})"
    parts = [f"B is A {transform}".strip()]
    if lag:
        parts.append(f"{abs(lag)} samples {'later' if lag > 0 else 'earlier'}")
    if gain < 0:
        parts.append("with its sign turned")
    if abs(abs(gain) - 1) > 0.01:
        parts.append(f"at {abs(gain):.2f} times the level")
    return ", ".join(parts)
