"""The fault zoo on a small random checkpoint: what is put in is named, blind, and nothing is named where nothing is put in."""

import json

import numpy as np
import pytest
from helpers.checkpoints import DATA, model, speech

from clearline.audio import Recording
from clearline.errors import ClearlineError
from clearline.lab.doctor import examine
from clearline.lab.doctor.lm_mistakes import misread_groups
from clearline.lab.faults import FAULTS, intact, rig, run
from clearline.lab.faults.matrix import Case, confusion, differs, examined, pairs, reduced
from clearline.lab.faults.trial import Outcome, Plan, blind_trial, joined, summary, table
from clearline.ops import Weight
from clearline.ops.weight import quantise

FOLDER = str(DATA / "moshi_d1")
# Each part of the rig once; the others have the same machinery. The whole zoo is benchmarks/faults.py.
QUICK = (
    "acoustic-delay", "config-of-another-model", "wrong-codebook-count", "buffer-reversed", "output-wrong-rate",
    "callback-underfilled", "temperature-zero", "not-deterministic", "audio-vocabulary-offset", "text-vocabulary-offset",
    "rope-layout", "too-slow", "cached-result", "stale-result", "hallucinated-transcript",
)  # fmt: skip
# Groups of 64 do not fit this checkpoint's matrices: that one has a test of its own.
NAMES = [name for name in dict.fromkeys(fault.name for fault in FAULTS) if name != "quantisation-group"]


@pytest.fixture(autouse=True)
def short_tail(monkeypatch):
    monkeypatch.setattr(rig, "TAIL", 2)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording(speech(36, rate=44_100)[:, None], 44_100)


def broken(recording, *names):
    """Evidence of a run with the first fault of each name."""
    made = intact(model("moshi_d1"), 5, FOLDER)
    for name in names:
        next(fault for fault in FAULTS if fault.name == name).inject(made)
    return run(made, recording)


def test_an_intact_run_is_well(recording):
    evidence = broken(recording)
    found = examine(evidence, listen=False)
    assert found.well and found.kind == "all is well" and found.paragraph.startswith("All is well"), found.paragraph
    looked = {check.what for check in found.checks if check.ok}
    assert {
        "machine",
        "pcm_in",
        "codes_in",
        "row",
        "codes_out",
        "hidden, logits",
        "sampling",
        "pcm_out",
        "speaker",
        "time",
    } <= looked
    assert examine(reduced(evidence, "tokens"), machine=False, listen=False).well


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_a_fault_is_named(recording, name):
    found = examine(broken(recording, name), machine=name == "broken-operation", listen=False)
    assert found.names[:1] == (name,), found.paragraph
    assert not found.well and f"[{name}]" in found.paragraph and "Confidence" in found.paragraph
    kinds = {
        "too-slow": "too slow",
        "cached-result": "bad evidence",
        "buffer-reversed": "wrong audio path",
        "rope-layout": "wrong tokens",
    }
    assert found.kind == kinds.get(name, found.kind)


def test_groups_that_are_misread():
    weight = Weight("w", np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32))
    wrong = misread_groups({"w": weight, "emb": weight}, 8, 64)
    assert wrong["emb"] is weight
    # Scales 0, 1 belong to row 0; read as groups of 32 they and row 1's are used up by row 0.
    scale = quantise(weight, 8, 64).scale
    codes = quantise(weight, 8, 64).codes().astype(float) - 128
    expected = codes[0].reshape(4, 32) * scale.reshape(-1)[:4, None]
    assert np.allclose(wrong["w"].data[0], expected.reshape(-1), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "acoustic-delay", "quantisation-group"])
def test_on_trained_weights(name, monkeypatch):
    """nano on its examples, with the tail that a reply needs."""
    import clearline

    chosen = clearline.load("nano", threads=1)
    made = intact(chosen, 1)
    for fault in FAULTS:
        if fault.name == name:
            fault.inject(made)
            break
    monkeypatch.setattr(rig, "TAIL", 45)
    question = joined(sorted((DATA.parents[2] / "examples").glob("*.wav")))
    evidence = run(made, question)
    found = examine(evidence, machine=False, listen=False)
    assert found.names[:1] == ((name,) if name else ()), found.paragraph
    if name in ("", "acoustic-delay"):
        blind = examine(reduced(evidence, "codes"), machine=False, listen=False)
        assert blind.names[:1] == found.names[:1], blind.paragraph


def test_a_pair_is_named_and_neither_hides_the_other(recording):
    found = examine(broken(recording, "acoustic-delay", "samples-reversed"), machine=False, listen=False)
    assert {"acoustic-delay", "samples-reversed"} <= set(found.names), found.paragraph


def test_without_logits(recording):
    """Tokens, codes and sound are enough to see the delays and the sound path."""
    found = examine(reduced(broken(recording, "acoustic-delay", "output-wrong-rate"), "tokens"), machine=False, listen=False)
    assert {"acoustic-delay", "output-wrong-rate"} <= set(found.names), found.paragraph


def test_evidence_levels(recording):
    evidence = broken(recording)
    assert set(reduced(evidence, "codes").trace.columns) == {"codes_out", "text_token"} and not reduced(evidence, "codes").facts
    assert reduced(evidence, "sound").trace is None and reduced(evidence, "sound").output is not None
    assert "text_logits" not in reduced(evidence, "tokens").trace.columns


def test_effect(recording):
    whole, same, other = broken(recording), broken(recording), broken(recording, "temperature-zero")
    assert not differs(whole, same) and differs(whole, other)
    cases = examined(model("moshi_d1"), recording, [], 5, machine=False)
    assert [case.truth for case in cases] == [()] and not cases[0].effect


def case(truth, named, **changes):
    return Case(tuple(truth), (), 1, "all", changes.get("effect", True), tuple(named), "", 1.0)


def test_shares_and_the_bar():
    """Nine of ten named exactly is enough; a fault called well, or health called ill, is not."""
    good = [case(["a"], ["a"])] * 9 + [case(["a"], ["b"])]
    healthy = [case([], [], effect=False)]
    assert Outcome(good + healthy).passed
    assert not Outcome([*good, case(["a"], ["b"]), *healthy]).passed
    assert not Outcome([*good, case(["a"], []), *([case(["a"], ["a"])] * 20)]).passed
    assert not Outcome([*good, case([], ["a"])]).passed
    assert not Outcome([*good, case(["a", "b"], [])]).passed
    # What changed nothing does not count, for or against.
    assert Outcome([*good, case(["a"], [], effect=False)]).passed
    assert confusion(good)["a"] == {"a": 9, "b": 1} and confusion(healthy)["healthy"] == {"all is well": 1}
    lines = "\n".join(summary(Outcome([*good, *healthy, case(["a", "b"], ["b", "a"])])) + table(Outcome(good)))
    assert "9 of 10 (60% to 98%)" in lines and "both named | 1 of 1" in lines and "**a** 9, b 1" in lines


def test_exact_means_the_first_names():
    assert case(["a", "b"], ["b", "a", "c"]).exact and not case(["a"], ["b", "a"]).exact
    assert case(["a"], ["b", "a"]).some and case(["a"], []).missed and not case([], []).missed


def test_pairs_are_of_different_parts():
    found = list(pairs(0, 50))
    assert len(found) == 50 == len({(a.description, b.description) for a, b in found})
    assert all(a.part != b.part for a, b in found) and found == list(pairs(0, 50)) != list(pairs(1, 50))


def test_every_fault_says_where_it_comes_from():
    assert all(fault.source and fault.boundary and fault.description for fault in FAULTS)
    assert len({fault.description for fault in FAULTS}) == len(FAULTS) >= 35


def test_a_trial(recording):
    chosen = tuple(fault for fault in FAULTS if fault.name in ("samples-reversed", "too-slow"))
    told = []
    # Random weights prove nothing to the shift sweep, so nothing here depends on it.
    found = blind_trial(model("moshi_d1"), recording, Plan(chosen, (5,), 0, 0, 1), lambda *what: told.append(what))
    assert [what[:2] for what in told] == [(0, 3), (1, 3), (2, 3)]
    assert [(case.truth, case.named) for case in found.cases[:2]] == [((f.name,), (f.name,)) for f in chosen] and found.passed


def test_joined(hello, tmp_path):
    found = joined([hello, hello])
    assert found.rate == 44_100 and abs(len(found.samples) / 44_100 - (2 * 0.8 + 3.0)) < 0.01
    assert not np.any(found.samples[int(1.0 * 44_100) : int(3.5 * 44_100)])
    with pytest.raises(ClearlineError, match="needs a recording"):
        joined([])


def test_command(clearline, hello):
    answer = clearline("faults", "--list", "--json")
    assert answer.code == 0 and len(json.loads(answer.out)) == len(FAULTS)
    assert "seed 000" in clearline("faults", "--list", "--only", "acoustic-delay").out
    for arguments, words in (
        (["--only", "gremlins"], "there is no fault 'gremlins'"),
        ([hello, "--given", "everything"], "is not known"),
        ([], "needs a recording"),
        (["none.wav"], "does not exist"),
    ):
        answer = clearline("faults", *arguments)
        assert answer.code == 2 and words in answer.err, answer
