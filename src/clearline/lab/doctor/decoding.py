"""Decoder: is the sound what this codec makes of these codes?"""

import numpy as np

from clearline.app import Model
from clearline.backends import get_backend
from clearline.lab.doctor.codec_mistakes import codec_mistakes
from clearline.lab.doctor.encoding import cluster_usage, converse
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding, Kind
from clearline.lab.doctor.sound import AKIN, fit, straight

_PATH: Kind = "wrong audio path"
# Correlations: our decoder's sound is the recorded one but for rounding; nearly so (a lower precision?); a mistake made on
# purpose reproduces it. Where nearly, the mistake must leave this part of the unexplained power.
AGREES, NEARLY, EXPLAINS, LESS = 0.99995, 0.99, 0.98, 0.1


def decodable(model: Model, codes: np.ndarray) -> np.ndarray:
    """Codes [T, K] cut to what the codec has; bool [T]: frames whose codes are all codes."""
    cut = codes[:, : model.mimi.cfg.n_q]
    good: np.ndarray = np.all((cut >= 0) & (cut < model.mimi.cfg.bins), axis=1)
    return good


def look_at_decoder(evidence: Evidence, chart: Chart) -> None:
    """`pcm_out` against our own decoding of `codes_out`."""
    sound, codes, model = evidence.column("pcm_out"), evidence.column("codes_out"), evidence.model
    if model is None or codes is None:
        return
    _range(chart, model, codes)
    if sound is None:
        return
    heard = np.nan_to_num(sound).reshape(-1)
    _, ours = converse(model.mimi, None, codes, 1)
    correlation = straight(ours.reshape(-1), heard)
    if correlation >= AGREES:
        chart.passed("pcm_out", f"our decoder makes the same sound of the codes (correlation {correlation:.4f})")
        return
    if not np.any(np.abs(heard) > 1e-6) and np.any(np.abs(ours) > 1e-3):
        chart.found(
            Finding(
                "output-silent",
                _PATH,
                "pcm_out",
                "the decoder's sound is silence, although the codes are not",
                f"our decoder reaches {np.abs(ours).max():.2g}",
                "look at what happens to the samples after decoding",
                CERTAIN,
            )
        )
        return
    if correlation < NEARLY and _transformed(chart, ours, heard):
        return
    enough = max(EXPLAINS, float(np.sqrt(1 - LESS * (1 - correlation**2)))) if correlation > 0 else EXPLAINS
    if _fewer(chart, model, codes, heard, enough):
        return
    for mistake in codec_mistakes(lambda: cluster_usage(model)):
        wrong = mistake.make(model.mimi, get_backend(model.backend.name))
        pcm = evidence.column("pcm_in") if wrong.shared else None
        _, made = converse(wrong, pcm, codes, model.config.user_streams or 1)
        got = straight(made.reshape(-1), heard)
        if got >= enough:
            chart.found(
                Finding(
                    mistake.called("decoder"),
                    _PATH,
                    "pcm_out",
                    mistake.what,
                    f"our decoder's sound correlates {correlation:.2f} with it, and {got:.4f} with this mistake made on purpose",
                    mistake.remedy,
                    CERTAIN,
                )
            )
            return
    if correlation >= NEARLY:
        chart.passed(
            "pcm_out", f"our decoder makes nearly the same sound of the codes (correlation {correlation:.4f}: a lower precision?)"
        )
        return
    chart.found(
        Finding(
            "unexplained-decoder",
            _PATH,
            "pcm_out",
            "the sound is not what the codec makes of these codes",
            f"it correlates {correlation:.2f} with our decoder's; no known mistake reproduces it",
            "compare the decoder layer by layer with `clearline compare --peers`",
            LIKELY,
        )
    )


def _transformed(chart: Chart, ours: np.ndarray, heard: np.ndarray) -> bool:
    found = fit(ours.reshape(-1), heard, ours.shape[1])
    if abs(found.correlation) < AKIN:
        return False
    if found.transform:
        name = {"reversed in time": "buffer-reversed", "with the samples of each frame reversed": "samples-reversed"}.get(
            found.transform, "frames-reversed"
        )
        chart.found(
            Finding(
                name,
                _PATH,
                "pcm_out",
                f"the sound is the decoder's {found.transform}",
                f"correlation {found.correlation:.4f}",
                "append frames in the order of time, samples as the decoder gives them",
                CERTAIN,
            )
        )
        return True
    chart.passed(
        "pcm_out",
        f"our decoder's sound, {abs(found.lag)} samples {'later' if found.lag >= 0 else 'earlier'}, at {found.gain:.2f} times "
        f"the level",
    )
    return True


def _fewer(chart: Chart, model: Model, codes: np.ndarray, heard: np.ndarray, enough: float) -> bool:
    """Whether fewer codebooks were decoded than there are."""
    for count in range(1, min(codes.shape[1], model.mimi.cfg.n_q)):
        _, made = converse(model.mimi, None, codes[:, :count], 1)
        if straight(made.reshape(-1), heard) >= enough:
            chart.found(
                Finding(
                    "wrong-codebook-count",
                    _PATH,
                    "pcm_out",
                    f"only the first {count} of {codes.shape[1]} codebooks are decoded",
                    "our decoder's sound of those alone is the recorded one",
                    f"decode all {codes.shape[1]} generated codebooks",
                    CERTAIN,
                )
            )
            return True
    return False


def _range(chart: Chart, model: Model, codes: np.ndarray) -> None:
    """Codes that no codebook has."""
    there = codes[(codes != -2).all(1)]
    bins = model.mimi.cfg.bins
    bad = (there < 0) | (there >= bins)
    if bad.any():
        chart.found(
            Finding(
                "codes-out-of-range",
                "wrong tokens",
                "codes_out",
                "codes are decoded that the codec does not have",
                f"{int(bad.any(1).sum())} of {len(there)} frames hold codes outside 0..{bins - 1} (largest {int(there.max())})",
                "drop frames with initial tokens before decoding; audio tokens have no offset",
                CERTAIN,
            )
        )
