"""Token statistics: hand-made streams with known answers, and every warning provoked and absent."""

import json

import numpy as np
import pytest

from clearline.errors import ClearlineError
from clearline.lab.rhythm import coupling, rhythm
from clearline.lab.streams import entropy, longest_loop, stream
from clearline.lab.tokens import token_report
from clearline.trace import Trace


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(0, 2048, (200, 8))


def report(codes, text=None, **options):
    columns = {"codes_out": np.asarray(codes)} | ({} if text is None else {"text_token": np.asarray(text)})
    return token_report(Trace(columns), **options)


def test_entropy_in_bits():
    assert entropy(np.array([7])) == 0
    assert entropy(np.array([1, 2])) == 1
    assert entropy(np.arange(8)) == 3
    assert entropy(np.array([0, 0, 0, 1])) == pytest.approx(0.25 * 2 + 0.75 * np.log2(4 / 3))


def test_a_stream():
    tokens = np.array([5, 5, 1, 9, 9, 9, 9, -1, 3, 12])
    found = stream("x", tokens, card=12)
    assert (found.steps, found.distinct, found.common, found.common_share) == (10, 6, 9, 0.4)
    assert (found.run, found.run_start, found.invalid, found.first_invalid) == (4, 3, 2, 7)
    assert stream("x", tokens, None).invalid == 1 and found.windows == ()
    assert stream("x", np.repeat([0, 1], 50), 2).windows == (0.0, 0.0)


def test_a_loop():
    frames = np.random.default_rng(1).integers(0, 64, (60, 4))
    looped = np.concatenate([frames, frames[-7:], frames[-7:], frames[-7:]])
    found = longest_loop(looped)
    assert (found.period, found.start, found.length) == (7, 60, 21) and found.chance < 1e-9
    assert longest_loop(frames) is None


def test_rhythm():
    #          pad       end spoken        pad
    text = [3, 3, 3, 3, 0, 262, 300, 3, 3, 3, 3, 3]
    found = rhythm(np.array(text))
    assert (found.padding, found.end_padding, found.spoken) == (9 / 12, 1 / 12, 2 / 12)
    assert found.longest_silence == 5 and found.per_second == (0.0, 2 / 4 * 12.5, 0.0)


def test_coupling():
    """The audio moves exactly where the text speaks; then the same with the text elsewhere."""
    text = np.full(200, 3)
    text[[40, 50, 60]] = 262
    codes = np.zeros((200, 4), int)
    codes[34:67] = np.arange(33)[:, None] + 1
    found = coupling(text, codes)
    assert found.correlation > 0.95 and found.p <= 2 / 200
    assert coupling(np.roll(text, 100), codes).p > 0.5
    assert coupling(text[:20], codes) is None and coupling(np.full(200, 3), codes) is None


def test_nothing_stands_out(codes):
    text = np.where(np.arange(200) % 9 == 0, 262, 3)
    found = report(codes, text, card=2048)
    assert found.warnings == [] and len(found.audio) == 8 and found.source == "codes_out"


def test_delayed_steps_are_not_out_of_range(codes):
    codes[:2] = -2
    assert report(codes, card=2048).warnings == []


def test_out_of_range(codes):
    codes[17, 3] = 2048
    assert report(codes, card=2048).warnings == ["audio 3: 1 of 200 tokens are out of range, the first in frame 17"]


def test_stuck(codes):
    codes[100:140, 5] = 7
    text = np.full(200, 3)
    assert "silence, or a fault" in report(codes).warnings[0]
    quiet = report(codes, text)
    assert quiet.warnings == [] and "audio 5 for 40 from frame 100; the text is silent there too" in quiet.notes[0]
    text[120] = 262
    assert "while the text speaks" in report(codes, text).warnings[0]


def test_looping(codes):
    codes[150:] = codes[100:150]
    codes[100:] = np.resize(codes[100:120], (100, 8))
    assert "each equals the one 20 before" in report(codes).warnings[0]


def test_collapse(codes):
    codes[134:] = np.random.default_rng(2).integers(0, 3, (66, 8))
    found = report(codes)
    assert len(found.warnings) == 1 and "collapse: in 8 of 8 codebooks" in found.warnings[0]


def test_text_without_padding(codes):
    assert "no padding" in report(codes, np.full(200, 262)).warnings[0]
    falls = np.where((np.arange(200) % 4 == 0) & (np.arange(200) < 70), 262, 3)
    assert any("falls silent: 3.2" in note or "falls silent" in note for note in report(codes, falls).notes)


def test_what_it_looks_at(codes):
    assert token_report(Trace({"audio_tokens": codes, "codes_in": codes[:, :1]})).source == "audio_tokens"
    assert len(token_report(Trace({"audio_tokens": codes, "codes_in": codes[:, :1]}), "codes_in").audio) == 1
    assert token_report(Trace({"text_token": np.full(9, 3)})).notes == ["the text stream says nothing"]
    with pytest.raises(ClearlineError, match="has no codes_in"):
        report(codes, boundary="codes_in")
    with pytest.raises(ClearlineError, match="no tokens to look at"):
        token_report(Trace({"pcm_out": np.zeros((2, 4))}))


def test_command(clearline, tmp_path, codes):
    np.save(tmp_path / "good.npy", codes.T)
    answer = clearline("tokens", tmp_path / "good.npy", "--card", 2048)
    assert answer.code == 0 and "nothing stands out" in answer.out and "audio 7" in answer.out
    codes[:, 2] = 9
    np.save(tmp_path / "bad.npy", codes.T)
    answer = clearline("tokens", tmp_path / "bad.npy", "--json")
    assert answer.code == 1 and "stand still" in json.loads(answer.out)["warnings"][0]
    answer = clearline("tokens", tmp_path / "none.npy")
    assert answer.code == 2 and "does not exist" in answer.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--boundary", "text_token"], "text_token holds no audio tokens; choose codes_out, audio_tokens, codes_in"),
        (["--boundary", "pcm_out"], "pcm_out holds no audio tokens"),
        (["--card", "-1"], "a codebook of -1 tokens"),
    ],
)
def test_what_holds_no_audio_tokens_is_refused(clearline, tmp_path, codes, options, message):
    np.save(tmp_path / "codes.npy", codes)
    answer = clearline("tokens", tmp_path / "codes.npy", *options)
    assert answer.code == 2 and message in answer.err and answer.out == ""
