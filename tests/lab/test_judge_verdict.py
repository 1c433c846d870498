"""What the judge makes of testimonies; the packaged calibration is whole."""

import itertools
import sys

import numpy as np
import pytest

from clearline.errors import ClearlineError
from clearline.lab.judge import judge, mos, verdict
from clearline.lab.judge.calibration import Curve, calibration, curve, probability, rates, together
from clearline.lab.judge.judgement import Testimony as Said
from clearline.lab.judge.recogniser import default_recogniser
from clearline.lab.judge.trial import WITNESSES
from clearline.lab.judge.verdict import decide

NAMES = sorted(WITNESSES)
# Measures that a clean recording and a garbled one had, roughly.
GOOD = {
    "sound": {"attack": 2.3, "modulation": 0.5, "bands_together": 0.9, "voiced": 0.75, "glide": 0.02, "pitch": 150, "smooth": 0.9,
              "contrast": 13, "range": 35},
    "mos": {"mos": 4.2}, "language": {"advantage": 0.25, "fluency": -0.45},
    "text": {"p": 0.01, "z": 9.0, "lead": 0.4, "fit": -0.15},
    "codec": {"evidence": 9.0, "share": 1.0, "back": 0.5, "healthy": 0.5, "trained": 0.5, "frames": 40, "same_sound": 1.0},
}  # fmt: skip
BAD = {
    "sound": {"attack": 0, "modulation": 0.2, "bands_together": 0.5, "voiced": 0.3, "glide": 0.1, "pitch": 150, "smooth": 0.4,
              "contrast": 6, "range": 15},
    "mos": {"mos": 1.2}, "language": {"advantage": -0.02, "fluency": -0.75},
    "text": {"p": 0.6, "z": -0.3, "lead": -0.1, "fit": -0.5},
    "codec": {"evidence": 0.0, "share": 0.0, "back": 0.0, "healthy": 0.5, "trained": 0.5, "frames": 40, "same_sound": 1.0},
}  # fmt: skip


def said(good=(), bad=()):
    out = []
    for name in NAMES:
        measures = GOOD[name] if name in good else BAD[name] if name in bad else None
        if measures is None:
            out.append(Said(name, False, "not here"))
        else:
            p = probability(curve("garbled", name).odds(measures))
            out.append(Said(name, True, f"{name} speaks", measures, p))
    return out


def test_every_set_of_witnesses_has_its_weights():
    for count in range(1, len(NAMES) + 1):
        for chosen in itertools.combinations(NAMES, count):
            assert 0 < together("garbled", dict.fromkeys(chosen, 0.0)) < 1


@pytest.mark.parametrize("chosen", [NAMES, ["language", "mos", "sound"], ["language", "mos", "sound", "text"]])
def test_witnesses_that_agree(chosen):
    good, bad = decide(said(good=chosen)), decide(said(bad=chosen))
    assert good.verdict == "clear" and good.confidence > 0.5 and good.garbled < 0.15
    assert bad.verdict == "garbled" and bad.confidence > 0.85 and bad.garbled > 0.85
    assert set(good.not_asked) == {f"{name}: not here" for name in NAMES if name not in chosen}
    assert good.rates.verdicts > 0 and good.rates.wrong <= 0.25 * good.rates.verdicts
    assert bad.rates.verdicts > 10 and bad.rates.wrong <= 0.15 * bad.rates.verdicts
    assert any(f"{name} speaks" in good.evidence for name in chosen)


def test_each_witness_leans_the_right_way():
    for name in NAMES:
        low, high = (next(t.garbled for t in made if t.witness == name) for made in (said([name]), said((), [name])))
        assert low < 0.4 and high > 0.6, name


def test_witnesses_that_contradict_each_other_decide_nothing_or_little():
    found = decide(said(good=["language"], bad=["mos", "sound"]))
    assert found.confidence < decide(said(bad=["language", "mos", "sound"])).confidence


def test_nobody_to_ask():
    found = decide(said())
    assert found.verdict == "undecided" and found.confidence == 0.5 and len(found.not_asked) == 5


def test_speech_of_other_words_is_clear_and_does_not_say_the_text():
    found = decide(said(good=["language", "mos", "sound"], bad=["text"]))
    assert found.verdict == "clear" and found.says_text is False and "does not say the claimed words" in found.evidence
    assert decide(said(good=NAMES)).says_text is True
    assert decide(said(good=["sound"])).says_text is None


def test_words_alone_do_not_make_clear_what_the_others_doubt(monkeypatch):
    monkeypatch.setattr(verdict, "_degraded", lambda asked: 0.1)  # nobody finds a defect
    assert decide(said(good=["language"], bad=["sound"])).verdict == "undecided"
    doubted = decide(said(good=["language", "text"], bad=["sound"]))
    assert doubted.says_text is True and doubted.verdict == "degraded" and 0.15 < doubted.confidence < 0.85
    assert "without the claimed words it would not pass for clear" in doubted.evidence
    assert decide(said(good=["language", "sound", "text"])).verdict == "clear"
    assert "without the claimed" not in decide(said(good=["language", "text"], bad=["sound"]), ["clicks"]).evidence


def test_a_defect_degrades_what_is_clear_and_does_not_hide_what_is_garbled():
    found = decide(said(good=NAMES), ["clicks everywhere"])
    assert found.verdict == "degraded" and found.evidence.startswith("Degraded: clicks everywhere")
    assert decide(said(bad=NAMES), ["clicks everywhere"]).verdict == "garbled"


def test_error_rates_are_stated_for_the_usual_sets():
    for chosen in (["language", "mos", "sound"], ["language", "mos", "sound", "text"], ["language", "sound", "text"]):
        counts = [rates(chosen, verdict) for verdict in ("clear", "degraded", "garbled")]
        assert all(found is not None and 0 <= found.wrong <= found.verdicts for found in counts)
    assert calibration()["recordings"]["held out"] > 50


def test_a_curve_does_not_run_away():
    line = Curve(("x",), (1.0,), (2.0,), (3.0,), 0.5)
    assert line.odds({"x": 1.0}) == 0.5 and line.odds({"x": 2.0}) == pytest.approx(2.0)
    assert line.odds({"x": 1e9}) == 5.0 and line.odds({"x": -1e9}) == -5.0


def test_an_unknown_witness():
    with pytest.raises(ClearlineError, match="no witness 'ear'"):
        judge(np.ones(24_000, np.float32), 24_000, witnesses=("ear",))


def test_packages_that_are_missing_are_named(monkeypatch):
    """Without the extra packages the sound's own statistics remain, and the verdict says who could not be asked."""
    for name in ("pocketsphinx", "distillmos"):
        monkeypatch.setitem(sys.modules, name, None)
    default_recogniser.cache_clear()
    mos._model.cache_clear()
    pcm = 0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    found = judge(pcm, 24_000, text="Good morning.")
    missing = {line.partition(":")[0]: line for line in found.not_asked}
    assert set(missing) == {"codec", "text", "language", "mos"} and found.verdict != "clear"
    assert all("clearline[judge]" in missing[name] for name in ("text", "language", "mos"))
    assert found.testimony("sound").asked and "clearline[judge]" not in found.evidence
