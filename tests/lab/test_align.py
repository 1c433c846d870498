"""The shift sweep, on a codec made for it whose sound tells exactly whether its codes belong together."""

import json

import numpy as np
import pytest
from helpers.checkpoints import DATA

from clearline.app import load_codec
from clearline.errors import ClearlineError
from clearline.lab.align import align, shifted, sweep
from clearline.lab.judge import Judgement

SIZE, CARD = 64, 1000


class ToyCodec:
    """Two codebooks; codes belong together where the second is 7 times the first modulo 1000. Sound made of such codes
    encodes back to them `reliability` of the time, other sound to something else."""

    frame_size, sample_rate = SIZE, 24_000

    def __init__(self, reliability: float = 0.5) -> None:
        self.reliability = reliability

    def decode(self, codes: np.ndarray) -> np.ndarray:
        pcm = np.zeros((codes.shape[1], SIZE))
        pcm[:, 0], pcm[:, 1], pcm[:, 2:] = codes[0] / CARD, codes[1] / CARD, 0.5
        return np.where((codes[0] == 0)[:, None], 0.0, pcm).reshape(-1)

    def encode(self, pcm: np.ndarray, codebooks: int) -> np.ndarray:
        frames = pcm.reshape(-1, SIZE)
        first, second = (np.rint(frames[:, k] * CARD).astype(int) for k in (0, 1))
        lucky = np.random.default_rng(0).random(len(frames)) < self.reliability
        return np.stack([np.where((second == first * 7 % CARD) & lucky, first, first + 1), second])


def belonging(frames: int) -> np.ndarray:
    first = np.random.default_rng(1).permutation(np.arange(1, CARD))[:frames]  # no value twice: no match by chance
    return np.stack([first, first * 7 % CARD])


def test_shifted():
    codes = np.stack([np.arange(10), np.arange(10) + 100])
    assert shifted(codes, 0).tolist() == [[2, 3, 4, 5, 6, 7], [102, 103, 104, 105, 106, 107]]
    assert shifted(codes, 2).tolist() == [[2, 3, 4, 5, 6, 7], [100, 101, 102, 103, 104, 105]]
    assert shifted(codes, -1).tolist() == [[2, 3, 4, 5, 6, 7], [103, 104, 105, 106, 107, 108]]
    # Moving there and back gives the original.
    assert shifted(shifted(codes, 1, 1), -1, 1).tolist() == codes[:, 2:-2].tolist()


@pytest.mark.parametrize("by", [-2, -1, 0, 1, 2])
def test_every_shift_is_found(by):
    found = align(ToyCodec(), shifted(belonging(80), -by), listen=None)
    assert found.shift == by and found.versions[0].shift == by
    assert 0.3 < found.versions[0].consistency.first < 0.7 and found.versions[1].consistency.first == 0
    words = {0: "aligned", 1: "moved 1 frame later: the acoustic delay that was undone is 1 too large",
             -2: "moved 2 frames earlier: the acoustic delay that was undone is 2 too small"}  # fmt: skip
    assert words.get(by, "MISALIGNED") in found.verdict


def test_what_cannot_be_decided():
    assert "no version gives its codes back" in align(ToyCodec(0.0), belonging(80), listen=None).verdict
    assert align(ToyCodec(0.0), belonging(80), listen=None).shift is None
    # Half of the frames belong together as they are, half when moved by one.
    first, second = belonging(40), shifted(belonging(42), -1, 1)
    mixed = align(ToyCodec(), np.concatenate([first, second], 1), listen=None)
    assert mixed.shift is None and "undecided" in mixed.verdict
    silent = belonging(80)
    silent[:, 20:] = 0
    assert "too few to tell" in align(ToyCodec(), silent, listen=None).verdict


def test_refusals():
    with pytest.raises(ClearlineError, match="only one"):
        align(ToyCodec(), belonging(80)[:1])
    with pytest.raises(ClearlineError, match="too few"):
        align(ToyCodec(), belonging(20))


def test_the_best_version_is_tested_against_each_other_one():
    versions = sweep(ToyCodec(1.0), belonging(33), (-1, 0, 1))
    assert versions[0].shift == 0 and versions[0].p == 1
    # 31 frames, 3 of warm-up: 28 pairs that all go one way.
    assert [version.p for version in versions[1:]] == [2 / 2**28, 2 / 2**28]


def ears(clear):
    """A judge to whom the version at shift `clear` of the sweep is clear and every other one garbled."""
    heard = []

    def listen(pcm, rate, text=None):
        heard.append(pcm)
        garbled = 0.02 if clear is not None and np.allclose(pcm, clear) else 0.98
        return Judgement("clear" if garbled < 0.5 else "garbled", 0.98, None, "Heard.", (), garbled=garbled)

    return listen


def test_the_judge_is_a_second_opinion():
    codes = shifted(belonging(80), -1)
    pcm = {shift: ToyCodec().decode(shifted(codes, shift)).astype(np.float32) for shift in (0, 1)}
    steps = []
    found = align(ToyCodec(), codes, lambda number, total: steps.append((number, total)), listen=ears(pcm[1]))
    assert found.shift == 1 and "by ear: garbled with 2% there, with 98% at least otherwise" in found.verdict
    assert steps == [(number, 10) for number in range(10)]
    # Ears and codes that contradict each other decide nothing; ears that hear nothing clear leave it to the codes.
    assert align(ToyCodec(), codes, listen=ears(pcm[0])).shift is None
    assert align(ToyCodec(), codes, listen=ears(None)).shift == 1


def test_by_ear_alone_where_the_codec_says_nothing():
    mute = ToyCodec(0.0)
    codes = belonging(80)
    found = align(mute, codes, listen=ears(mute.decode(shifted(codes, -2)).astype(np.float32)))
    assert found.shift == -2 and found.versions[0].shift == -2 and "by ear alone" in found.verdict
    assert align(mute, codes, listen=ears(None)).shift is None


def test_command(clearline, tmp_path):
    """A codec with random weights proves nothing, and the command says so."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "codes.npy", rng.integers(0, 32, (8, 40)))
    answer = clearline("align", tmp_path / "codes.npy", "-m", DATA / "moshi_d1", "-o", tmp_path / "wavs", "--codes-only", "--json")
    report = json.loads(answer.out)
    assert answer.code == 3 and report["shift"] is None and len(report["versions"]) == 5
    assert sorted(path.name for path in (tmp_path / "wavs").iterdir()) == [f"shift{n}.wav" for n in ("+0", "+1", "+2", "-1", "-2")]
    for arguments, words in (
        (["none.npy"], "does not exist"),
        ([tmp_path / "codes.npy", "--boundary", "row"], "cannot be decoded"),
        ([tmp_path / "codes.npy", "--boundary", "codes_in"], "has no codes_in"),
        ([tmp_path / "codes.npy", "-o", tmp_path / "codes.npy"], "not a folder"),
    ):
        answer = clearline("align", *arguments, "-m", DATA / "moshi_d1")
        assert answer.code == 2 and words in answer.err


def test_a_trained_codec_gives_the_shift_away():
    """nano's own codec on nano's own voice: the seeds' riddle, solved from the codes alone."""
    import clearline

    # Both replies, one after the other: a single short one has too few frames that are not silent.
    model, examples = clearline.load("nano"), DATA.parents[2] / "examples"
    codes = np.concatenate([model.run_file(examples / f"{name}.wav").codes_out for name in ("capital", "hello")], 1)
    codec = load_codec("nano")
    assert align(codec, codes, listen=None).shift == 0
    assert align(codec, shifted(codes, -1), listen=None).shift == 1
