"""The judge on real sound: nano's replies, intact and broken, with the recogniser that is installed, and the command."""

import json

import numpy as np
import pytest
import soundfile
from helpers.checkpoints import DATA

import clearline as package
from clearline.lab.align import shifted
from clearline.lab.judge import judge
from clearline.lab.judge.recogniser import PocketSphinx
from clearline.trace import MemoryRecorder
from clearline.trace.read import write_trace
from clearline.trace.schema import TOKENS

EXAMPLES = DATA.parents[2] / "examples"
RATE = 24_000
# Without the learned opinion, which needs PyTorch: what the tests' environment has.
WITNESSES = ("codec", "text", "language", "sound")


@pytest.fixture(scope="module")
def model():
    return package.load("nano")


@pytest.fixture(scope="module")
def run(model):
    recorder = MemoryRecorder(TOKENS)
    recording = soundfile.read(EXAMPLES / "capital.wav", dtype="float32")
    return model.run(*recording, tail=5.0, recorder=recorder), recorder


def test_an_intact_reply(run, model):
    result, _ = run
    found = judge(result.pcm, RATE, text=result.words, codes=result.codes_out, codec=model.mimi, witnesses=WITNESSES)
    assert found.verdict in ("clear", "degraded") and found.says_text is True and found.confidence > 0.5
    assert found.testimony("text").measures["decoys"] >= 50 and found.testimony("text").measures["p"] <= 0.02
    codec = found.testimony("codec").measures
    assert codec["share"] > 0.3 and codec["same_sound"] > 0.99 and codec["delay"] == 0
    assert [line.partition(":")[0] for line in found.not_asked] == ["mos"]
    assert not any("codes" in defect for defect in found.defects)


@pytest.mark.parametrize("break_it", ["acoustic", "permuted", "random"])
def test_broken_codes_are_garbled(run, model, break_it):
    result, _ = run
    begin = max(0, int(result.words[0].start / 0.08) - 4)
    codes, rng = result.codes_out[:, begin : begin + 40], np.random.default_rng(0)
    codes = {
        "acoustic": lambda c: shifted(c, 1, 1),
        "permuted": lambda c: np.roll(c, 3, 0),
        "random": lambda c: rng.integers(0, model.mimi.cfg.bins, c.shape),
    }[break_it](codes)
    found = judge(model.mimi.decode(codes), RATE, codes=codes, codec=model.mimi, witnesses=("codec", "sound"))
    assert found.verdict == "garbled" and found.testimony("codec").garbled > 0.85
    assert any("do not come back" in defect for defect in found.defects)


def test_another_text_is_not_what_it_says(run):
    result, _ = run
    other = "My brother carried seven heavy boxes up the stairs."
    found = judge(result.pcm, RATE, text=other, witnesses=("text",))
    assert found.testimony("text").measures["p"] > 0.02 and found.says_text is not True


def test_reversed_speech_is_found_by_its_language(run):
    result, _ = run
    recogniser = PocketSphinx()
    forwards, backwards = (
        judge(pcm, RATE, recogniser=recogniser, witnesses=("language",)).testimony("language").measures["advantage"]
        for pcm in (result.pcm, result.pcm[::-1].copy())
    )
    assert forwards > 0 > backwards and forwards == pytest.approx(-backwards, abs=0.05)


def test_command(run, clearline, tmp_path):
    result, recorder = run
    wav, trace = tmp_path / "reply.wav", tmp_path / "reply.trace"
    soundfile.write(wav, result.pcm, RATE)
    write_trace(trace, recorder.trace())
    answer = clearline("judge", wav, "--trace", trace, "--json")
    report = json.loads(answer.out)
    assert answer.code == (0 if report["verdict"] == "clear" else 1) and report["verdict"] in ("clear", "degraded")
    assert report["says_text"] is True
    asked = {one["witness"]: one for one in report["testimonies"] if one["asked"]}
    assert {"codec", "text", "language", "sound"} <= asked.keys() and asked["codec"]["measures"]["same_sound"] > 0.98
    # The trace alone is decoded first.
    alone = clearline("judge", trace)
    assert alone.code == answer.code and "not asked" not in alone.out.replace("not asked: mos", "")
    # A WAV alone: what could not be asked is said.
    bare = clearline("judge", wav)
    assert "not asked: codec: no codes were given" in bare.out and "not asked: text: no text was given" in bare.out


def test_command_on_what_is_hardly_a_sound(clearline, tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1), np.float32), 8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros((999, 2), np.float32), 8000)
    soundfile.write(tmp_path / "short.wav", np.full(900, 0.3, np.float32) * np.sin(np.arange(900)), 8000)
    (tmp_path / "nothing.wav").touch()
    for name, code, words in (("empty", 1, "no samples"), ("silent", 1, "SILENT"), ("short", 3, "too short")):
        answer = clearline("judge", tmp_path / f"{name}.wav")
        assert answer.code == code and words in answer.out, name
    for arguments, words in (
        (["nothing.wav"], "is empty (0 bytes)"),
        (["none.wav"], "does not exist"),
        (["silent.wav", "--channel", "3"], "has 2 channels"),
        (["silent.wav", "--trace", "none.trace"], "does not exist"),
        (["silent.wav", "--whisper", "none"], "not a folder with a faster-whisper model"),
        (["nothing.trace", "--channel", "1"], "--channel chooses one of a recording"),
    ):
        answer = clearline("judge", *[tmp_path / a if "." in a else a for a in arguments])
        assert answer.code == 2 and words in answer.err, arguments
