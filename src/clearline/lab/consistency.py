"""Codec consistency: decoded, does the sound encode back to the codes it was made from?

A codec of Mimi's kind is trained to reproduce what it encoded, so its decoder's output, encoded again, gives many of its
first codebook's codes back. Codes that do not belong together (misaligned, permuted, from elsewhere) make a sound whose
codes differ from them. It needs nothing but the codec. It knows nothing of speech: it cannot tell words from any other
sound, and of a codec with random weights it says nothing.
"""

from dataclasses import dataclass

import numpy as np

from clearline.generate import Codec

# The codec starts from nothing; its first frames are not like the others.
WARM_UP = 3
# Frames quieter than this, in dB of full scale, are silence, whose codes come back whatever was done to them.
SILENCE_DB = -45.0


@dataclass(frozen=True)
class Consistency:
    """Shares of codes that come back in the frames that are not silent, per codebook; `first` is the semantic one's.

    frames: how many that were. hits: for each of all frames, whether its first code came back; None in silence.
    """

    first: float
    per_codebook: tuple[float, ...]
    frames: int
    hits: tuple[bool | None, ...]


def consistency(codec: Codec, codes: np.ndarray, pcm: np.ndarray) -> Consistency:
    """Encode pcm [frames * frame_size] again and compare with the codes [K, frames] it was decoded from."""
    again = codec.encode(pcm.astype(np.float32), codes.shape[0])
    same = again[:, : codes.shape[1]] == codes
    heard = loudness(pcm.reshape(-1, codec.frame_size)) > SILENCE_DB
    heard[:WARM_UP] = False
    shares = tuple(float(row[heard].mean()) if heard.any() else float("nan") for row in same)
    hits = tuple(bool(hit) if there else None for hit, there in zip(same[0], heard, strict=True))
    return Consistency(shares[0], shares, int(heard.sum()), hits)


def loudness(frames: np.ndarray) -> np.ndarray:
    """Level of frames [n, size] in dB of full scale: 20 log10 of the root mean square."""
    level: np.ndarray = 20 * np.log10(np.sqrt((frames.astype(np.float64) ** 2).mean(1)) + 1e-9)
    return level
