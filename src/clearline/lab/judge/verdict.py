"""The verdict on what the witnesses said."""

from collections.abc import Mapping, Sequence
from math import log

from clearline.lab.judge import calibration, codes
from clearline.lab.judge.judgement import Judgement, Testimony, Verdict

# A probability of garbled sound between these two does not decide.
UNDECIDED = (0.15, 0.85)
# The forced choice (p) that counts as passed, and as failed.
PASSED, FAILED = 0.02, 0.1
_TEXT = "text"


def decide(testimonies: Sequence[Testimony], defects: Sequence[str] = ()) -> Judgement:
    """Weigh testimonies by the calibration; defects are what was found wrong with the sound by rule."""
    asked = {one.witness: one for one in testimonies if one.asked and one.garbled is not None}
    defects = [*defects, *(_wrong_speed(one) for one in asked.values() if "speed" in one.measures)]
    misfit = codes.misfit(asked[codes.NAME]) if codes.NAME in asked else None
    defects += [] if misfit is None else [misfit]
    says_text = _says_text(asked.get(_TEXT))
    others = {name: one for name, one in asked.items() if name != _TEXT}
    if says_text is False and _garbled(others) < UNDECIDED[0]:
        # The others understand it: then it is speech, of other words than those claimed, and no less clear for that.
        asked = others
    garbled, degraded = _garbled(asked), _degraded(asked)
    # That words are in it does not make sound clear which the others doubt: a semantic codebook alone may carry them.
    doubt = _garbled(others) if _TEXT in asked and others else 0.0
    verdict, confidence = _verdict(garbled, degraded, bool(defects), doubt)
    sentence = _sentence(verdict, asked, says_text, defects, doubt)
    return Judgement(
        verdict, confidence, calibration.rates(asked, verdict), sentence, tuple(testimonies), tuple(defects),
        says_text=says_text, garbled=garbled,
    )  # fmt: skip


def _wrong_speed(language: Testimony) -> str:
    return f"it is English at {language.measures['speed']} times its speed: a wrong sample rate"


def _verdict(garbled: float, degraded: float, defect: bool, doubt: float) -> tuple[Verdict, float]:
    if garbled > UNDECIDED[1]:
        return "garbled", garbled
    if garbled >= UNDECIDED[0]:
        return "undecided", max(garbled, 1 - garbled)
    if defect or degraded > 0.5 or doubt >= UNDECIDED[0]:
        return "degraded", (1 - garbled) * (1.0 if defect else max(degraded, doubt))
    return "clear", (1 - garbled) * (1 - degraded)


def _garbled(asked: Mapping[str, Testimony]) -> float:
    """The probability that nobody could understand it; one half where no witness could be asked."""
    if not asked:
        return 0.5
    return calibration.together("garbled", {name: _odds(one) for name, one in asked.items()})


def _degraded(asked: Mapping[str, Testimony]) -> float:
    """The probability that it has a defect, given that it can be understood."""
    odds = {
        name: calibration.curve("degraded", name).odds(one.measures)
        for name, one in asked.items()
        if calibration.has_curve("degraded", name)
    }
    return calibration.together("degraded", odds) if odds else 0.5


def _odds(one: Testimony) -> float:
    p = 0.5 if one.garbled is None else min(max(one.garbled, 1e-6), 1 - 1e-6)
    return log(p / (1 - p))


def _says_text(text: Testimony | None) -> bool | None:
    if text is None or FAILED >= text.measures["p"] > PASSED:
        return None
    return text.measures["p"] <= PASSED


def _sentence(
    verdict: Verdict, asked: Mapping[str, Testimony], says_text: bool | None, defects: Sequence[str], doubt: float
) -> str:
    """The strongest evidence for the verdict; of an undecided one, the strongest for either side."""
    order = sorted(asked.values(), key=_odds, reverse=verdict == "garbled")
    chosen = order[:1] + order[-1:] if verdict == "undecided" else order[:2]
    reasons = [*(defects[:2] if verdict == "degraded" else ()), *(one.says for one in chosen)]
    if verdict == "degraded" and not defects and doubt >= UNDECIDED[0]:
        reasons.append("without the claimed words it would not pass for clear")
    if says_text is False and verdict in ("clear", "degraded"):
        reasons.append("but it does not say the claimed words")
    return f"{verdict.capitalize()}: {'; '.join(dict.fromkeys(reasons))}."
