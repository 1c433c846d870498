"""Loudness after ITU-R BS.1770, as pyloudnorm 0.2 measures it: K-weighting, 400 ms blocks, two gates."""

import numpy as np

from clearline.errors import AudioError

BLOCK_SECONDS, STEP = 0.4, 0.25
SILENT, BELOW_MEAN = -70.0, -10.0
# The filters have forgotten a sample after far less than this: what is filtered in one transform is padded by as much.
_RINGING_SECONDS = 1.0


def to_loudness(mono: np.ndarray, rate: int, lufs: float) -> np.ndarray:
    """Samples [n] scaled to an integrated loudness of `lufs`. Raises AudioError for silence and for less than 0.4 s."""
    scaled: np.ndarray = mono * np.float32(10 ** ((lufs - loudness(mono, rate)) / 20))
    return scaled


def loudness(mono: np.ndarray, rate: int) -> float:
    """Integrated loudness of samples [n] in LUFS: the mean power of the blocks that pass both gates."""
    if len(mono) < BLOCK_SECONDS * rate:
        raise AudioError(f"{len(mono) / rate:.2f} s are too short to tell how loud they are; {BLOCK_SECONDS} s are needed")
    powers = _block_powers(_weighted(mono.astype(np.float64), rate), rate)
    kept = powers[_lufs(powers) >= SILENT]
    if kept.size:
        kept = powers[(_lufs(powers) > _lufs(kept.mean()) + BELOW_MEAN) & (_lufs(powers) > SILENT)]
    if not kept.size:
        raise AudioError(f"the recording is silent: no 0.4 s of it are louder than {SILENT:g} LUFS")
    return float(_lufs(kept.mean()))


def _lufs(power: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        level: np.ndarray = -0.691 + 10 * np.log10(power)
    return level


def _block_powers(x: np.ndarray, rate: int) -> np.ndarray:
    """Mean square of each 400 ms block; three quarters of a block are also in the next."""
    count = round((len(x) / rate - BLOCK_SECONDS) / (BLOCK_SECONDS * STEP)) + 1
    starts = [int(BLOCK_SECONDS * (i * STEP) * rate) for i in range(count)]
    ends = [int(BLOCK_SECONDS * (i * STEP + 1) * rate) for i in range(count)]
    sums = [np.square(x[a:b]).sum() for a, b in zip(starts, ends, strict=True)]
    return np.array(sums) / (BLOCK_SECONDS * rate)


def _weighted(x: np.ndarray, rate: int) -> np.ndarray:
    """A shelf of +4 dB above 1.5 kHz and a high-pass at 38 Hz, both second order, from the Audio EQ Cookbook."""
    size = len(x) + int(_RINGING_SECONDS * rate)
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones(len(z), complex)
    for b, a in (_high_shelf(rate), _high_pass(rate)):
        response *= np.polyval(b[::-1], z) / np.polyval(a[::-1], z)
    weighted: np.ndarray = np.fft.irfft(np.fft.rfft(x, size) * response, size)[: len(x)]
    return weighted


def _high_shelf(rate: int) -> tuple[list[float], list[float]]:
    gain, w = 10 ** (4.0 / 40), 2 * np.pi * 1500.0 / rate
    cos, alpha = np.cos(w), np.sin(w) / np.sqrt(2)
    up, down, slope = gain + 1, gain - 1, 2 * np.sqrt(gain) * alpha
    b = [gain * (up + down * cos + slope), -2 * gain * (down + up * cos), gain * (up + down * cos - slope)]
    return b, [up - down * cos + slope, 2 * (down - up * cos), up - down * cos - slope]


def _high_pass(rate: int) -> tuple[list[float], list[float]]:
    w = 2 * np.pi * 38.0 / rate
    cos, alpha = np.cos(w), np.sin(w)  # Q is 1/2
    return [(1 + cos) / 2, -(1 + cos), (1 + cos) / 2], [1 + alpha, -2 * cos, 1 - alpha]
