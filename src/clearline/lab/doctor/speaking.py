"""Speaker: is what is heard (a WAV, a recording of the callback) the sound that the decoder made?"""

from dataclasses import dataclass

import numpy as np

from clearline.audio import Recording, to_mono
from clearline.lab.doctor.decoding import decodable
from clearline.lab.doctor.encoding import converse
from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, Chart, Finding, Kind
from clearline.lab.doctor.sound import AKIN, RATES, Fit, fit, linear, nearest

_PATH: Kind = "wrong audio path"
# Exact zeros in a row, within sound, that no decoder gives: a callback that had nothing to play.
GAP = 16
# Samples by which a piece may lie elsewhere than the holes say.
_REACH = 64


@dataclass(frozen=True)
class Heard:
    """One explanation of the file: the mistake's name ("" for none), words, the remedy, how it fits."""

    name: str
    what: str
    remedy: str
    fit: Fit


def look_at_output(evidence: Evidence, chart: Chart) -> None:
    """The output file against `pcm_out`, or against our decoding of `codes_out` where no sound was recorded."""
    model, output = evidence.model, evidence.output
    if output is None or model is None:
        return
    rate = model.mimi.sample_rate
    sound, codes = evidence.column("pcm_out"), evidence.column("codes_out")
    if sound is not None:
        made, whose = np.nan_to_num(sound[~np.isnan(sound.reshape(len(sound), -1)).any(1)]).reshape(-1), "the recorded pcm_out"
    elif codes is not None:
        good = codes[decodable(model, codes)]
        made, whose = converse(model.mimi, None, good, 1)[1].reshape(-1), "our decoding of the codes"
    else:
        return
    made = made.astype(np.float32)
    found = explain(made, rate, output)
    if abs(found.fit.correlation) < AKIN:
        gaps = underfilled(made, to_mono(output.samples, output.rate, output.rate))
        if gaps is not None:
            chart.found(gaps)
            return
        if _loud(chart, made, output, found.fit):
            return
        place = "output" if sound is not None else "decoder"
        chart.found(
            Finding(
                f"unexplained-{place}",
                _PATH,
                "speaker",
                f"what is heard is not {whose}",
                f"of all rates, transforms and resamplings tried, the best correlates {found.fit.correlation:.2f} ({found.what})",
                "write the decoder's samples straight to a file and compare",
                LIKELY,
            )
        )
        return
    evidence_line = f"{found.what}: correlation {found.fit.correlation:.4f} with {whose}"
    if found.name:
        chart.found(
            Finding(found.name, _PATH, "speaker", f"the sound leaves wrongly: {found.what}", evidence_line, found.remedy, CERTAIN)
        )
        return
    gaps = underfilled(made, to_mono(output.samples, output.rate, output.rate)) if output.rate == rate else None
    if gaps is not None:
        chart.found(gaps)
    elif not 0.25 < abs(found.fit.gain) < 4:
        chart.found(
            Finding(
                "output-level",
                _PATH,
                "speaker",
                f"what is heard has {abs(found.fit.gain):.3g} times the level of {whose}",
                evidence_line,
                "write samples in -1..1 as the file's format says",
                CERTAIN,
            )
        )
    else:
        chart.passed("speaker", evidence_line)


def explain(made: np.ndarray, rate: int, output: Recording) -> Heard:
    """The likeliest way from samples [n] at `rate` to the file: the first that explains all but rounding, else the best."""
    raw = to_mono(output.samples, output.rate, output.rate)
    best: Heard | None = None
    for name, what, remedy, reference, candidate in _ways(made, rate, raw, output.rate):
        found = fit(reference, candidate, max(1, round(0.08 * output.rate)))
        heard = Heard(name, f"{what} {found.transform}".strip(), remedy, found)
        if found.transform and abs(found.correlation) >= AKIN:
            turned = {"reversed in time": "buffer-reversed", "with the samples of each frame reversed": "samples-reversed"}
            heard = Heard(
                turned.get(found.transform, "frames-reversed"),
                heard.what,
                "append frames in the order of time, samples as the decoder gives them",
                found,
            )
        if best is None or found.unexplained_db < best.fit.unexplained_db - 6:
            best = heard
        if best.fit.unexplained_db < -50:
            break
    assert best is not None
    return best


def _ways(made: np.ndarray, rate: int, raw: np.ndarray, named: int):  # type: ignore[no-untyped-def]
    """(name, what, remedy, reference, samples of the file) of every way tried, right ones first."""
    header = f"write the rate of the samples, {rate} Hz, into the file's header (or resample to the device's rate)"
    band = "resample with a band-limited resampler (soxr, a polyphase filter)"
    yield "", "the same samples" if named == rate else f"resampled well to {named} Hz", "", to_mono(made, rate, named), raw
    if named != rate:
        yield "output-wrong-rate", f"samples at {rate} Hz under a header of {named} Hz", header, made, raw
        yield "output-linear-resampling", f"resampled to {named} Hz by linear interpolation", band, linear(made, rate, named), raw
        yield "output-linear-resampling", f"resampled to {named} Hz by repeating samples", band, nearest(made, rate, named), raw
    for other in RATES:
        if other not in (rate, named):
            yield (
                "output-wrong-rate",
                f"samples at {other} Hz under a header of {named} Hz",
                header,
                to_mono(made, rate, other),
                raw,
            )
            yield (
                "output-wrong-rate",
                f"samples at {other} Hz, by linear interpolation, under a header of {named} Hz",
                header,
                linear(made, rate, other),
                raw,
            )
    for other in (16_000, 22_050, 44_100, 48_000) if named == rate else ():
        there = linear(made, rate, other)
        yield (
            "output-linear-resampling",
            f"resampled to {other} Hz and back by linear interpolation",
            band,
            linear(there, other, rate),
            raw,
        )


def underfilled(made: np.ndarray, heard: np.ndarray) -> Finding | None:
    """Whether the file is the sound with holes: zeros put between samples, or in place of them."""
    holes, own = zero_runs(heard), zero_runs(_rounded(made))
    if holes.mean() < own.mean() + 0.002:
        return None
    explained, moved = _pieces(made.astype(np.float64), heard.astype(np.float64), holes)
    if explained < AKIN:
        return None
    edges = np.flatnonzero(np.diff(holes.astype(int)) == 1)
    return Finding(
        "callback-underfilled",
        _PATH,
        "speaker",
        f"the audio callback was under-filled: {len(edges)} gaps of silence {'between' if moved else 'in place of'} samples "
        f"(clicks)",
        f"{holes.mean():.1%} of the samples are zeros in a row, {own.mean():.1%} in the decoder's sound; the pieces between "
        f"them are "
        f"{explained:.1%} of the decoder's samples",
        "fill the whole buffer from a queue of decoded samples; keep what does not fit for the next callback",
        CERTAIN,
    )


def _pieces(made: np.ndarray, heard: np.ndarray, holes: np.ndarray) -> tuple[float, bool]:
    """Share of the heard energy between the holes that is found in `made`, piece by piece, each where the one before left off
    or later by the holes' length; and whether pieces have moved against each other."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], holes, [True]]).astype(int)))
    total = found = 0.0
    lag = last = 0
    for begin, end in edges.reshape(-1, 2):
        piece, gap = heard[begin:end], begin - last
        last = end
        energy = float(piece @ piece)
        if end - begin < GAP or energy == 0:
            continue
        total += energy
        low = max(0, begin - lag - gap - _REACH)
        window = made[low : end - lag + _REACH]
        if len(window) < len(piece):
            continue
        products = np.correlate(window, piece, "valid")
        sums = np.concatenate([[0.0], np.cumsum(window**2)])
        power = sums[len(piece) :] - sums[: -len(piece)]
        score = products / np.sqrt(np.maximum(power * energy, 1e-30))
        at = int(score.argmax())
        found += energy * max(0.0, float(score[at])) ** 2
        lag = begin - (low + at)
    return (found / total if total else 0.0), abs(lag) > _REACH


def zero_runs(pcm: np.ndarray) -> np.ndarray:
    """bool [n]: samples within `GAP` or more exact zeros in a row."""
    zero = np.concatenate([[False], pcm == 0, [False]])
    edges = np.flatnonzero(zero[1:] != zero[:-1]).reshape(-1, 2)
    out = np.zeros(len(pcm), bool)
    for begin, end in edges:
        if end - begin >= GAP:
            out[begin:end] = True
    return out


def _rounded(pcm: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(pcm, np.float64) * 32768) / 32768


def _loud(chart: Chart, made: np.ndarray, output: Recording, found: Fit) -> bool:
    pcm = to_mono(output.samples, output.rate, output.rate)
    peak = float(np.abs(pcm).max())
    share = float((np.abs(pcm) >= 0.999 * peak).mean())
    if peak > 0 and share > 0.01 and abs(found.correlation) > 0.5:
        chart.found(
            Finding(
                "output-level",
                _PATH,
                "speaker",
                "the output is clipped: it was amplified past full scale",
                f"{share:.1%} of its samples lie at the peak, the decoder's reach {np.abs(made).max():.2g}",
                "write samples in -1..1",
                LIKELY,
            )
        )
        return True
    if peak == 0 and np.any(np.abs(made) > 1e-3):
        chart.found(
            Finding(
                "output-silent",
                _PATH,
                "speaker",
                "the file is silent, although the decoder's sound is not",
                f"the decoder's samples reach {np.abs(made).max():.2g}",
                "look at what happens to the samples after decoding",
                CERTAIN,
            )
        )
        return True
    return False
