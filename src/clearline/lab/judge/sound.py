"""The sound itself, without any model of language: has it the rhythm, the pitch and the spectrum of speech?"""

import numpy as np

from clearline.lab.judge.case import Case
from clearline.lab.judge.hearing import Heard, levels
from clearline.lab.judge.judgement import Testimony
from clearline.lab.judge.spectra import envelope, log_mel, pitch

NAME = "sound"
_ROOM_DB = 45.0


def ask(case: Case) -> Testimony:
    found = statistics(case.heard)
    says = (
        f"{found['voiced']:.0%} of it has a pitch (about {found['pitch']:.0f} Hz), {found['modulation']:.0%} of the changes of "
        f"loudness are as fast as syllables, and {found['range']:.0f} dB lie between loud and soft"
    )
    return Testimony(NAME, True, says, found)


def statistics(heard: Heard) -> dict[str, float]:
    """Numbers in which speech differs from noise, scrambled and reversed speech.

    attack: skewness of the changes of loudness, positive where sound begins faster than it ends. modulation: share of the
    loudness changes at 2..8 Hz, the rate of syllables. bands_together: mean correlation of neighbouring bands' loudness.
    voiced: share of the loud frames with a pitch; glide: how much it jumps from frame to frame, in octaves. smooth: mean
    correlation of neighbouring spectra 20 ms apart. contrast: spread of a frame's spectrum in dB. range: loud to soft, dB.
    The silence around the sound does not count, and what is deeper than a quiet room counts as one.
    """
    voice = _trimmed(heard.voice)
    mel = log_mel(voice)  # [T, 24] dB, 10 ms
    mel = np.maximum(mel, mel.max() - _ROOM_DB - 20)
    total = envelope(voice)
    total = np.maximum(total, total.max() - _ROOM_DB)
    loud = total > total.max() - 25
    steps = np.diff(total)[loud[1:] | loud[:-1]]
    f0, strength = pitch(voice)
    tonal = (strength > 0.5) & loud[: len(strength)]
    jumps = np.abs(np.diff(np.log2(np.maximum(f0, 1))))[tonal[1:] & tonal[:-1]]
    spoken = mel[loud[: len(mel)]]
    centred = mel - mel.mean(1, keepdims=True)
    norm = np.sqrt((centred**2).sum(1)) + 1e-9
    near = (centred[2:] * centred[:-2]).sum(1) / (norm[2:] * norm[:-2])
    spectrum = np.abs(np.fft.rfft(total - total.mean())) ** 2
    rate = np.fft.rfftfreq(len(total), 0.01)
    bands = mel[loud[: len(mel)]]
    bands = bands - bands.mean(0)
    spread = bands.std(0) + 1e-9
    together = ((bands[:, 1:] * bands[:, :-1]).mean(0) / (spread[1:] * spread[:-1])).mean()
    return {
        "attack": float(((steps - steps.mean()) ** 3).mean() / (steps.std() ** 3 + 1e-9)),
        "modulation": float(spectrum[(rate >= 2) & (rate <= 8)].sum() / (spectrum[(rate >= 0.5) & (rate <= 30)].sum() + 1e-9)),
        "bands_together": float(together),
        "voiced": float(tonal.sum() / max(1, loud.sum())),
        "glide": float(np.median(jumps)) if len(jumps) else 1.0,
        "pitch": float(np.median(f0[tonal])) if tonal.any() else 0.0,
        "smooth": float(near[loud[1 : 1 + len(near)]].mean()) if len(near) else 0.0,
        "contrast": float(spoken.std(1).mean()),
        "range": float(np.percentile(total, 95) - np.percentile(total, 10)),
    }


def _trimmed(voice: np.ndarray) -> np.ndarray:
    """Without the silence before and after."""
    level = levels(voice)
    loud = np.flatnonzero(level > level.max() - _ROOM_DB + 10)
    return voice[loud[0] * 320 : (loud[-1] + 1) * 320]
