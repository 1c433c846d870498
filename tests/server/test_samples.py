"""Telephone sound: companding against the formula of G.711, resampling against its own claims and against soxr."""

import numpy as np
import pytest
import soxr

from clearline.errors import ConfigError
from clearline.server.protocols import ProtocolError
from clearline.server.protocols.samples import G711, Downsampler, Linear16, Upsampler


def tone(hertz: float, rate: int, count: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / rate)).astype(np.float32)


def noise(rate: int) -> np.ndarray:
    """A second of noise without anything above 3.2 kHz."""
    narrow = 0.1 * np.random.default_rng(1).standard_normal(6400).astype(np.float32)
    return soxr.resample(narrow, 6400, rate, quality="VHQ")


def delay(heard: np.ndarray, said: np.ndarray) -> int:
    """How many samples later it was heard: where the two match best."""
    return int(np.argmax(np.correlate(heard[1000:9000], said[1000:8800], "valid")))


def mu_law(byte: int) -> int:
    """The sample of a byte, by the formula of G.711: sign, 3 bits of exponent, 4 bits of mantissa, all inverted."""
    byte = ~byte & 0xFF
    magnitude = (((byte & 15) << 3) + 132 << ((byte >> 4) & 7)) - 132
    return -magnitude if byte & 0x80 else magnitude


def test_every_byte_of_mu_law():
    class Bare(G711):
        """Companding alone."""

        def __init__(self) -> None:
            super().__init__("ULAW", 24_000)
            self._up = self._down = lambda samples: samples

    heard = Bare().decode(bytes(range(256)))
    assert (heard * 32768).astype(int).tolist() == [mu_law(byte) for byte in range(256)]
    # Both zeros come back as one; every other byte as itself.
    assert [byte for byte, back in enumerate(Bare().encode(heard)) if back != byte] == [127]
    assert Bare().encode(np.array([2.0, -2.0])) == b"\x80\x00"  # clipped


@pytest.mark.parametrize("law", ["ULAW", "ALAW"])
def test_speech_survives_the_telephone(law):
    there, back = G711(law, 24_000), G711(law, 24_000)
    said = noise(24_000)
    data = b"".join(there.encode(frame) for frame in said.reshape(-1, 1920 // 2))
    assert len(data) == 8000
    heard = np.concatenate([back.decode(data[i : i + 160]) for i in range(0, 8000, 160)])
    assert len(heard) == 24_000
    late = delay(heard, said)
    assert late in (94, 95, 96)  # 4 ms
    error = heard[4000 + late : 20_000 + late] - said[4000:20_000]
    assert 10 * np.log10(np.mean(said**2) / np.mean(error**2)) > 30  # the noise of 8 bits


@pytest.mark.parametrize("hertz", [100, 1000, 3000, 3400])
def test_upsampling_makes_no_images(hertz):
    up, sound = Upsampler(), tone(hertz, 8000, 8000)
    heard = np.concatenate([up(part) for part in np.array_split(sound, 37)])
    assert heard.dtype == np.float32 and len(heard) == 24_000
    spectrum = np.abs(np.fft.rfft(heard[2400:14_400] * np.hanning(12_000)))
    place = hertz // 2
    loudest = spectrum[place - 3 : place + 4].max()
    assert loudest == pytest.approx(np.abs(np.fft.rfft(tone(hertz, 24_000, 12_000) * np.hanning(12_000))).max(), rel=0.001)
    spectrum[place - 3 : place + 4] = 0
    assert 20 * np.log10(spectrum.max() / loudest) < -70


def test_upsampling_does_what_soxr_does_two_milliseconds_later():
    sound = noise(8000)
    heard, official = Upsampler()(sound), soxr.resample(sound, 8000, 24_000, quality="VHQ")
    late = delay(heard, official)
    assert late in (47, 48)


@pytest.mark.parametrize("hertz, expected", [(100, 0), (3400, 0), (4600, -70), (6000, -70), (11_000, -70)])
def test_downsampling_takes_away_what_would_fold(hertz, expected):
    down, sound = Downsampler(), tone(hertz, 24_000, 24_000)
    heard = np.concatenate([down(part) for part in np.array_split(sound, 29)])
    assert heard.dtype == np.float32 and len(heard) == 8000
    level = 10 * np.log10(2 * np.mean(heard[200:] ** 2) / 0.25)
    assert abs(level) < 0.01 if expected == 0 else level < expected


def test_pieces_of_any_length_give_the_same():
    sound = np.random.default_rng(3).standard_normal(3001).astype(np.float32)
    for make in (Upsampler, Downsampler):
        whole, pieces = make()(sound), make()
        parts = [pieces(part) for part in np.split(sound, [0, 1, 2, 3, 5, 100, 101, 2000])]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-6)


def test_what_is_no_sound():
    with pytest.raises(ProtocolError, match="3 bytes"):
        Linear16().decode(b"abc")
    with pytest.raises(ConfigError, match="16000 Hz"):
        G711("ULAW", 16_000)
    assert G711("ULAW", 24_000).decode(b"").size == 0 and G711("ULAW", 24_000).encode(np.zeros(0, np.float32)) == b""
