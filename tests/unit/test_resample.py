"""Any rate and any channel count to mono at the codec's rate; expectations are sines and averages."""

import numpy as np
import pytest

from clearline.audio import to_mono
from clearline.errors import AudioError


def tone(rate: int, hertz: float, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("hertz", [440.0, 3300.0])
def test_a_tone_stays_the_same_tone(rate, hertz):
    """Linear interpolation, for comparison, is off by 0.02 to 0.3 here."""
    found = to_mono(tone(rate, hertz), rate, 24_000)
    expected = tone(24_000, hertz)
    assert abs(found.size - expected.size) <= 1 and found.dtype == np.float32
    middle = slice(2000, 10_000)
    assert np.abs(found[middle] - expected[middle]).max() < 1e-4


def test_what_the_target_rate_cannot_hold_is_removed_not_folded():
    """20 kHz at 48 kHz would fold to 4 kHz at 24 kHz."""
    found = to_mono(tone(48_000, 20_000), 48_000, 24_000)
    assert np.abs(found[2000:10_000]).max() < 1e-4


def test_the_same_rate_changes_nothing():
    samples = np.random.default_rng(1).uniform(-1, 1, 1000).astype(np.float32)
    np.testing.assert_array_equal(to_mono(samples, 24_000, 24_000), samples)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(channels):
    samples = np.random.default_rng(2).uniform(-1, 1, (500, channels))
    expected = [sum(row) / channels for row in samples.tolist()]
    np.testing.assert_allclose(to_mono(samples, 24_000, 24_000), expected, atol=1e-7)


@pytest.mark.parametrize(("dtype", "full"), [(np.int8, 128.0), (np.int16, 32768.0), (np.int32, 2147483648.0)])
def test_whole_number_samples_are_scaled_by_their_range(dtype, full):
    info = np.iinfo(dtype)
    samples = np.array([0, 1, info.max // 2, info.max, info.min], dtype)
    np.testing.assert_allclose(to_mono(samples, 24_000, 24_000), [x / full for x in samples.tolist()], rtol=1e-6)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((0, 2), np.float32), "no samples"),
        (np.zeros((100, 0), np.float32), "no channels"),
        (np.zeros((2, 3, 4), np.float32), r"\[2, 3, 4\]"),
        (np.float32(1), r"\[\]"),
        (np.zeros((2, 24_000), np.float32), "transpose"),
        (np.zeros(10, np.int64), "int16 or int32"),
        (np.zeros(10, np.uint8), "uint8"),
        (np.zeros(10, np.uint16), "uint16"),
        (np.zeros(10, bool), "bool"),
        (np.zeros(10, np.complex64), "complex64"),
        (np.array(["a", "b"]), "<U1"),
        ([[1.0, 2.0], [3.0]], "one array"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, np.inf]), "infinite"),
        (np.array([0.0, -20_000.0]), "20000; floats must lie in -1..1"),
        (np.array([0.0, 1e300]), "1e\\+300"),
    ],
)
def test_unusable_samples(samples, message):
    with pytest.raises(AudioError, match=message):
        to_mono(samples, 24_000, 24_000)


@pytest.mark.parametrize("rate", [0, -24_000, 999, 768_001, float("nan"), float("inf"), True, "24000", None])
def test_unusable_rates(rate):
    with pytest.raises(AudioError, match="sample rate"):
        to_mono(np.zeros(10, np.float32), rate, 24_000)


def test_louder_than_full_scale_is_allowed_within_reason():
    assert to_mono(np.array([1.5, -2.0]), 24_000, 24_000).tolist() == [1.5, -2.0]
