"""Input: is what the model hears the recording that was given?"""

import numpy as np

from clearline.lab.doctor.evidence import Evidence
from clearline.lab.doctor.finding import CERTAIN, LIKELY, POSSIBLE, Chart, Finding, Kind
from clearline.lab.doctor.sound import AKIN, SAME, Fit, Route, fit, routes

_PATH: Kind = "wrong audio path"


def look_at_input(evidence: Evidence, chart: Chart, rate: int) -> None:
    """The input recording against `pcm_in`; `rate` is the codec's."""
    column = evidence.column("pcm_in")
    if evidence.input is None or column is None:
        return
    heard = column.reshape(-1).astype(np.float32)
    if not np.any(np.abs(heard) > 1e-6):
        chart.found(_silent(float(np.abs(evidence.input.samples).max())))
        return
    best, found = best_route(evidence.input.samples, evidence.input.rate, rate, heard)
    explained = f"{best.what}: correlation {found.correlation:.4f} with what the model heard"
    if abs(found.correlation) < AKIN:
        if _clipped(chart, heard, found):
            return
        chart.found(
            Finding(
                "unexplained-input",
                _PATH,
                "pcm_in",
                "the model does not hear the recording",
                f"of all rates, transforms and resamplings tried, the best correlates {found.correlation:.2f} ({best.what})",
                "compare the samples that enter the codec with the file, from the first one on",
                LIKELY,
            )
        )
        return
    if best.name:
        remedy = {
            "linear-resampling": "resample with a band-limited resampler (soxr, a polyphase filter)",
            "wrong-rate": f"resample to {rate} Hz by the rate that the file names",
            "interleaved-channels": "average the channels, or take one, before resampling",
        }[best.name]
        chart.found(
            Finding(f"input-{best.name}", _PATH, "pcm_in", f"the recording enters wrongly: {best.what}", explained, remedy, CERTAIN)
        )
    _transformed(chart, found, explained)
    if not best.name and not found.transform and found.correlation >= SAME:
        chart.passed("pcm_in", explained)


def best_route(samples: np.ndarray, rate: int, target: int, heard: np.ndarray) -> tuple[Route, Fit]:
    """The way from file to model that explains most; the right one unless another is clearly (6 dB) better."""
    best: tuple[Route, Fit] | None = None
    for route in routes(samples, rate, target):
        found = fit(route.make()[: len(heard)], heard)
        if best is None or found.unexplained_db < best[1].unexplained_db - 6:
            best = route, found
        if best[1].unexplained_db < -60:
            break
    assert best is not None
    return best


def _transformed(chart: Chart, found: Fit, explained: str) -> None:
    """What the best fit says beside the route: reversal, level, delay."""
    if found.transform:
        chart.found(
            Finding(
                "input-reversed",
                _PATH,
                "pcm_in",
                f"the model hears the recording {found.transform}",
                explained,
                "feed frames, and samples within a frame, in the order of time",
                CERTAIN,
            )
        )
    if not 0.25 < abs(found.gain) < 4:
        chart.found(
            Finding(
                "input-level",
                _PATH,
                "pcm_in",
                f"the model hears the recording at {abs(found.gain):.3g} times its level",
                explained,
                "scale samples to -1..1 (16-bit integers: divide by 32768)",
                CERTAIN,
            )
        )
    if found.gain < 0:
        chart.found(Finding("input-sign", "note", "pcm_in", "the sign of the input is turned", explained, "harmless", POSSIBLE))


def _clipped(chart: Chart, heard: np.ndarray, found: Fit) -> bool:
    peak = float(np.abs(heard).max())
    share = float((np.abs(heard) >= 0.999 * peak).mean())
    if share > 0.01 and abs(found.correlation) > 0.5:
        chart.found(
            Finding(
                "input-level",
                _PATH,
                "pcm_in",
                "the input is clipped: it was amplified past full scale",
                f"{share:.1%} of its samples lie at the peak",
                "scale samples to -1..1",
                LIKELY,
            )
        )
        return True
    return False


def _silent(peak: float) -> Finding:
    return Finding(
        "input-silent",
        _PATH,
        "pcm_in",
        "the model hears silence",
        f"every sample it hears is 0; the recording's peak is {peak:.2g}",
        "check the microphone, the channel, and the conversion from integers",
        CERTAIN,
    )
