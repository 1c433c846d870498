"""Do the generated codes come back from the sound? See `clearline.lab.consistency`; here it is calibrated on the spot.

Mimi is not idempotent: even what it encoded itself comes back in part only, and that part differs from codec to codec and
voice to voice. So three numbers are compared: how many of the given codes come back; how many come back of the codes that
the codec itself finds in this very sound, decoded and encoded once more (a healthy run gives about that); and how many agree by
chance, when the two are moved against each other in time. Where the codec does not even give its own codes of this sound back,
clear speech tells whether the codec is to blame (random weights) or the sound (nothing that a codec knows).
"""

from dataclasses import dataclass

import numpy as np

from clearline.audio import to_mono
from clearline.generate import Codec
from clearline.lab.consistency import BY_CHANCE, LEAST, consistency, evidence, own_consistency, reference_consistency
from clearline.lab.judge.case import Case, unasked
from clearline.lab.judge.hearing import Heard
from clearline.lab.judge.judgement import Testimony

NAME = "codec"
_FEWEST = 6
# Correlation from which on the sound is what the codes decode to.
SAME_SOUND = 0.9


def ask(case: Case) -> Testimony:
    if case.codes is None or case.codec is None:
        return unasked(NAME, "no codes were given, or no codec to encode the sound again (--trace, --model)")
    found = returned(case.heard, np.asarray(case.codes), case.codec)
    if found is None or found.frames < _FEWEST:
        return unasked(NAME, f"only {0 if found is None else found.frames} frames with sound can be compared")
    if found.trained < LEAST:
        return unasked(NAME, f"this codec gives only {found.healthy:.0%} of its own codes back: random weights?")
    says = (
        f"{found.back:.0%} of the semantic codes come back from the sound, where {found.healthy:.0%} of the codec's own do and "
        f"{found.chance:.0%} would by chance ({found.frames} frames)"
    )
    if found.healthy - found.chance < LEAST:
        says += f"; of clear speech {found.trained:.0%} of its own do"
    if found.same_sound < SAME_SOUND:
        says += f"; the sound is not what the codes decode to (correlation {found.same_sound:.2f})"
    measures = {
        "evidence": found.evidence, "share": found.share, "back": found.back, "healthy": found.healthy, "chance": found.chance,
        "trained": found.trained, "frames": found.frames, "same_sound": found.same_sound, "delay": found.delay,
    }  # fmt: skip
    per_codebook = {f"back {k}": share for k, share in enumerate(found.per_codebook)}
    return Testimony(NAME, True, says, measures | per_codebook)


def misfit(said: Testimony) -> str | None:
    """The defect of a sound that its codes do decode to and that does not give them back: no more than by chance, and far fewer
    than the codec's own."""
    one = said.measures
    fewer = evidence(max(one["healthy"], one["trained"]), one["back"], int(one["frames"]))
    if one["same_sound"] < SAME_SOUND or one["evidence"] >= BY_CHANCE or fewer < BY_CHANCE:
        return None
    return "its codes do not come back from the sound: they do not belong together"


@dataclass(frozen=True)
class Returned:
    """Shares of the first codebook's codes: back: of the given ones; healthy: of the codec's own; chance: of the given ones
    at other times; trained: of the codec's own beyond chance, of this sound or of clear speech, whichever is more.
    per_codebook: `back` of every codebook. frames: with sound. same_sound: correlation of the sound with the decoded codes,
    at the best of all delays; delay: that one, in samples of the codec's rate."""

    back: float
    healthy: float
    chance: float
    trained: float
    per_codebook: tuple[float, ...]
    frames: int
    same_sound: float
    delay: int

    @property
    def evidence(self) -> float:
        """Standard deviations by which more codes come back than by chance."""
        return evidence(self.back, self.chance, self.frames)

    @property
    def share(self) -> float:
        """What comes back, 0: as by chance, 1: as of the codec's own codes."""
        return (self.back - self.chance) / max(self.healthy - self.chance, LEAST)


def returned(heard: Heard, codes: np.ndarray, codec: Codec) -> Returned | None:
    """Compare heard sound with codes int [K, T] that it should come from; None where there is no sound to compare."""
    pcm = to_mono(heard.pcm, heard.rate, codec.sample_rate) if len(heard.pcm) else heard.pcm
    decoded = codec.decode(codes).astype(np.float32)
    delay, same = _delay(pcm, decoded)
    aligned = np.pad(pcm, (max(0, -delay), 0))[max(0, delay) :]
    aligned = np.pad(aligned, (0, max(0, len(decoded) - len(aligned))))[: len(decoded)]
    found = consistency(codec, codes, aligned)
    if found.frames == 0:
        return None
    own = own_consistency(codec, aligned, codes.shape[0])
    trained = own.beyond_chance
    if trained < LEAST:
        trained = reference_consistency(codec, codes.shape[0]).beyond_chance
    return Returned(
        found.first, float(np.nan_to_num(own.first)), found.chance, trained, found.per_codebook, found.frames, same, delay
    )  # fmt: skip


def _delay(pcm: np.ndarray, decoded: np.ndarray) -> tuple[int, float]:
    """By how many samples `pcm` lags behind `decoded` where the two correlate best, and that correlation."""
    if not len(pcm) or not len(decoded):
        return 0, 0.0
    size = 1 << (len(pcm) + len(decoded)).bit_length()
    product = np.fft.irfft(np.fft.rfft(pcm, size) * np.conj(np.fft.rfft(decoded, size)), size)
    best = int(product.argmax())
    norm = float(np.sqrt((pcm.astype(np.float64) ** 2).sum() * (decoded.astype(np.float64) ** 2).sum()))
    correlation = float(product[best]) / norm if norm > 0 else 0.0
    # A sound that is not that of the codes has no delay against them.
    return (best if best < size // 2 else best - size, correlation) if correlation > 0.3 else (0, correlation)
