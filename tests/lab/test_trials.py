"""Trials: that runs are counted rightly, that they really run, and that two settings are compared pair by pair."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech

from clearline.audio import Recording
from clearline.errors import ClearlineError
from clearline.generate import Result
from clearline.generate.text import Word
from clearline.lab import trials as lab
from clearline.lab.trials import Run, Trials, against, judge, trials

MODEL = DATA / "moshi_d1"


def run(seed: int, success: bool, output: str = "x") -> Run:
    return Run("id", "now", seed, 1.0, 1.0, 3, "", output, success, "")


def made(*successes: bool) -> Trials:
    runs = [run(seed, success, f"{seed}") for seed, success in enumerate(successes)]
    return Trials(runs, runs[0], (0.0, 1.0))


def test_pairs_are_counted():
    found = against(
        made(True, True, True, False, True, True, True, True), made(False, True, False, False, False, False, False, False)
    )
    assert (found.only_first, found.only_second, found.p) == (6, 0, 2 / 64) and found.least == 6
    assert against(made(True, False), made(False, True)).p == 1
    with pytest.raises(ClearlineError, match="same seeds"):
        against(made(True), Trials([run(5, True)], run(5, True), (0, 1)))


def test_derived_numbers():
    found = made(True, False, True, True)
    assert (found.successes, found.rate, found.distinct, found.deterministic) == (3, 0.75, 4, True)
    assert not replace(found, repeated=run(0, True, "other")).deterministic


def test_every_run_runs(monkeypatch):
    """Two seeds and a repetition: three runs with ids of their own, the repetition with the first one's output."""
    calls = []
    chosen = model("moshi_d1")
    original = type(chosen).run
    monkeypatch.setattr(type(chosen), "run", lambda self, *a, **k: calls.append(1) or original(self, *a, tail=0, **k))
    found = trials(chosen, Recording(speech(6)[:, None], 24_000), chosen.generation(), [4, 5])
    assert len(calls) == 3 and [r.seed for r in found.runs] == [4, 5] and found.repeated.seed == 4
    assert found.deterministic and found.distinct == 2
    assert len({r.run_id for r in (*found.runs, found.repeated)}) == 3
    assert found.interval[0] < found.rate + 1e-9 < found.interval[1] + 1e-6
    for seeds in ([], [3, 3]):
        with pytest.raises(ClearlineError, match="different seeds"):
            trials(chosen, Recording(speech(2)[:, None], 24_000), chosen.generation(), seeds)


def test_the_criterion(monkeypatch):
    """Words first, then whether the sound belongs to its codes, by a sweep whose outcome is given here."""

    class Version:
        def __init__(self, shift, first, p, frames=30):
            self.shift, self.p = shift, p
            self.consistency = type("C", (), {"first": first, "frames": frames})

    def result(words: int) -> Result:
        return Result(
            np.zeros(9), 24_000, "", [Word("a", 0, 1)] * words, np.zeros(9), np.zeros((8, 40)), np.zeros((8, 40)), {}, 1.0
        )

    chosen = model("moshi_d1")
    outcomes = {
        "3 words, 40%": [Version(0, 0.4, 1.0), Version(1, 0.0, 1e-4), Version(-1, 0.0, 1e-4)],
        "misaligned: 0%": [Version(1, 0.4, 1.0), Version(0, 0.0, 1e-4), Version(-1, 0.0, 1e-4)],
        "not told from misaligned": [Version(0, 0.4, 1.0), Version(1, 0.3, 0.2), Version(-1, 0.0, 1e-4)],
        "silent": [Version(0, float("nan"), 1.0, 0), Version(1, float("nan"), 1.0, 0), Version(-1, float("nan"), 1.0, 0)],
    }
    for words, versions in outcomes.items():
        monkeypatch.setattr(lab, "sweep", lambda *_, versions=versions: versions)
        success, why = judge(chosen, result(3), 3)
        assert success == words.startswith("3 words") and why.startswith(words)
    assert judge(chosen, result(2), 3) == (False, "2 words, fewer than 3")


def test_command(clearline, hello):
    arguments = ("trials", hello, "-n", 2, "-m", MODEL, "--min-words", 0)
    answer = clearline(*arguments, "--json", "--against", "temperature=0,text_temperature=0,acoustic_delay=2")
    report = json.loads(answer.out)
    assert answer.code == 0 and report["first"]["deterministic"] is True
    assert [r["seed"] for r in report["first"]["runs"]] == [299792458, 299792459]
    assert report["second"]["distinct"] == 1 and report["against"]["p"] >= 0.5  # greedy: the seed changes nothing
    assert len(report["first"]["interval"]) == 2
    facts = [report[key]["facts"] for key in ("first", "second")]
    assert [found["audio_sampling"]["temperature"] for found in facts] == [0.8, 0]
    assert facts[0]["hashes"].keys() == {"input", "weights", "codec_weights", "config"} and facts[0]["version"]


def test_command_refuses(clearline, hello):
    for arguments, words in (
        (["none.wav"], "does not exist"),
        ([hello, "--seeds", "1,x"], "whole numbers"),
        ([hello, "--seeds", "1,1", "-m", MODEL], "different seeds"),
        ([hello, "--against", "loudness=3"], "no setting 'loudness'"),
        ([hello, "--against", "kyutai"], "no preset 'kyutai'"),
        ([hello, "--against", "temperature=hot"], "temperature"),
        ([hello, "-n", 0], "Invalid value for '-n'"),
    ):
        answer = clearline("trials", *arguments)
        assert answer.code == 2 and words in answer.err, (arguments, answer)
