"""Codec consistency: decoded, does the sound encode back to the codes it was made from?

A codec of Mimi's kind is trained to reproduce what it encoded, so its decoder's output, encoded again, gives many of its
first codebook's codes back. Codes that do not belong together (misaligned, permuted, from elsewhere) make a sound whose
codes differ from them. It needs nothing but the codec. It knows nothing of speech: it cannot tell words from any other
sound, and of a codec with random weights it says nothing.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from clearline.audio import read_audio, to_mono
from clearline.generate import Codec

# The codec starts from nothing; its first frames are not like the others.
WARM_UP = 3
# Frames quieter than this, in dB of full scale, are silence, whose codes come back whatever was done to them.
SILENCE_DB = -45.0
# A codec that gives so little of its own codes back beyond chance, of clear speech too, can say nothing of others'
# (random weights: 0 to 3%).
LEAST = 0.06
# Standard deviations over chance below which codes do not come back: at most 2.0 of 20 broken sequences (shifted, shuffled,
# reversed, random), at least 3.2 of 16 intact ones, of 40 to 180 frames of nano's codec.
BY_CHANCE = 2.5


@dataclass(frozen=True)
class Consistency:
    """Shares of codes that come back in the frames that are not silent, per codebook; `first` is the semantic one's.

    chance: share of the first codebook's codes that are equal at other times. frames: how many were not silent. hits: for
    each of all frames, whether its first code came back; None in silence.
    """

    first: float
    chance: float
    per_codebook: tuple[float, ...]
    frames: int
    hits: tuple[bool | None, ...]

    @property
    def beyond_chance(self) -> float:
        """0 where nothing sounds."""
        return 0.0 if self.frames == 0 else max(0.0, self.first - self.chance)

    @property
    def evidence(self) -> float:
        """Standard deviations by which more first codes come back than by chance (arcsine transform of a share)."""
        return evidence(self.first, self.chance, self.frames)


def consistency(codec: Codec, codes: np.ndarray, pcm: np.ndarray) -> Consistency:
    """Encode pcm [frames * frame_size] again and compare with the codes [K, frames] it was decoded from."""
    again = codec.encode(pcm.astype(np.float32), codes.shape[0])[:, : codes.shape[1]]
    same = again == codes
    heard = loudness(pcm.reshape(-1, codec.frame_size)) > SILENCE_DB
    heard[:WARM_UP] = False
    if not heard.any():
        nothing = float("nan")
        return Consistency(nothing, nothing, (nothing,) * len(codes), 0, (None,) * len(heard))
    shares = tuple(float(row[heard].mean()) for row in same)
    lags = range(WARM_UP + 1, max(WARM_UP + 2, min(40, codes.shape[1] // 2)))
    chance = float(np.mean([(np.roll(again[0], lag) == codes[0])[heard].mean() for lag in lags]))
    hits = tuple(bool(hit) if there else None for hit, there in zip(same[0], heard, strict=True))
    return Consistency(shares[0], chance, shares, int(heard.sum()), hits)


def evidence(back: float, chance: float, frames: int) -> float:
    """Standard deviations between two shares of so many frames (arcsine transform); 0 where there is no frame."""
    return float(2 * np.sqrt(frames) * (np.arcsin(np.sqrt(back)) - np.arcsin(np.sqrt(chance)))) if frames else 0.0


def own_consistency(codec: Codec, pcm: np.ndarray, num_codebooks: int) -> Consistency:
    """Of the codes that the codec itself finds in pcm [n] at its rate: what a healthy run gives on sound of this kind."""
    codes = codec.encode(pcm.astype(np.float32), num_codebooks)
    return consistency(codec, codes, codec.decode(codes).astype(np.float32))


def reference_consistency(codec: Codec, num_codebooks: int) -> Consistency:
    """The codec's own on clear speech. A sound may be so garbled that no codec gives it back; a trained codec gives speech
    back, and one with random weights gives nothing."""
    return own_consistency(codec, reference_speech(codec.sample_rate), num_codebooks)


def untrained(codec: Codec, num_codebooks: int) -> bool:
    """Whether the codec's weights are as good as random: of clear speech it gives no codes of its own back."""
    return reference_consistency(codec, num_codebooks).beyond_chance < LEAST


@cache
def reference_speech(rate: int) -> np.ndarray:
    """Three seconds of clear speech, float32 [n] at `rate` Hz."""
    recording = read_audio(Path(str(resources.files("clearline.lab") / "reference.flac")))
    return to_mono(recording.samples, recording.rate, rate)


def loudness(frames: np.ndarray) -> np.ndarray:
    """Level of frames [n, size] in dB of full scale: 20 log10 of the root mean square."""
    level: np.ndarray = 20 * np.log10(np.sqrt((frames.astype(np.float64) ** 2).mean(1)) + 1e-9)
    return level
