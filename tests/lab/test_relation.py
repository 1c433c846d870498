"""Codes in disguise: each change is made here by hand, and has to be named."""

import numpy as np
import pytest

from clearline.lab.compare import relate
from clearline.lab.compare.sound import relate_sound


@pytest.fixture
def codes():
    return np.random.default_rng(3).integers(0, 2048, (8, 80))


def delayed(codes: np.ndarray, by: int) -> np.ndarray:
    """The same codes, `by` frames later; what comes in at the edge is something else."""
    out = np.roll(codes, by, axis=-1)
    fresh = np.random.default_rng(4).integers(0, 2048, out.shape)
    edge = slice(0, by) if by > 0 else slice(by, None)
    out[..., edge] = fresh[..., edge]
    return out


def test_the_same(codes):
    relation = relate(codes, codes)
    assert not relation.disguised and relation.findings == ()
    assert [match.agreement for match in relation.matches] == [1.0] * 8


@pytest.mark.parametrize("by", [-3, -2, -1, 1, 2, 3])
def test_shifted_in_time(codes, by):
    relation = relate(codes, delayed(codes, by))
    assert {match.shift for match in relation.matches} == {by} and all(match.agreement == 1 for match in relation.matches)
    frames = f"{abs(by)} frame{'s' if abs(by) > 1 else ''} {'later' if by > 0 else 'earlier'}"
    assert relation.findings == (f"every codebook of B is {frames} than in A",)


@pytest.mark.parametrize("by", [-2, -1, 1, 2])
def test_the_seeds_riddle(codes, by):
    """The acoustic codebooks moved against the semantic one."""
    relation = relate(codes, np.concatenate([codes[:1], delayed(codes[1:], by)]))
    assert [match.shift for match in relation.matches] == [0] + [by] * 7
    assert len(relation.findings) == 1 and "against the semantic one" in relation.findings[0]
    assert f"{abs(by)} frame" in relation.findings[0] and ("later" if by > 0 else "earlier") in relation.findings[0]
    other = relate(codes, np.concatenate([delayed(codes[:1], by), codes[1:]]))
    assert f"{abs(by)} frame" in other.findings[0] and ("earlier" if by > 0 else "later") in other.findings[0]
    assert "semantic codebook is itself" in other.findings[1]


def test_permuted(codes):
    order = [0, 2, 1, 3, 4, 5, 7, 6]
    relation = relate(codes, codes[order])
    assert [match.source for match in relation.matches] == order
    assert relation.findings == ("codebooks are permuted: B's 1 is A's 2, 2 is A's 1, 6 is A's 7, 7 is A's 6",)


@pytest.mark.parametrize("by", [1, -1])
def test_the_vocabulary_off_by_one(codes, by):
    relation = relate(codes, codes + by)
    assert relation.findings == (f"every token of B's codebooks 0, 1, 2, 3, 4, 5, 6, 7 is {by:+d}",)
    some = codes.copy()
    some[3] += by
    assert relate(codes, some).findings == (f"every token of B's codebook 3 is {by:+d}",)


def test_reversed(codes):
    assert relate(codes, codes[:, ::-1]).findings == ("every codebook of B is backwards in time",)


def test_cut(codes):
    assert relate(codes, codes[:5, :60]).findings == ("A has 8 codebooks, B has 5", "A has 80 frames, B has 60")
    assert "3 frames earlier" in relate(codes, codes[:, 3:]).findings[0]


@pytest.mark.parametrize("by", [4, 20, 39])
def test_a_beginning_that_is_cut(codes, by):
    relation = relate(codes, codes[:, by:])
    assert relation.cut == by and {match.agreement for match in relation.matches} == {1.0}
    assert relate(codes[:, by:], codes).cut is None and f"{by} frames later" in relate(codes[:, by:], codes).findings[0]
    assert relate(codes, np.concatenate([codes[:1, by:], codes[1:, by:] + 1])).cut is None
    assert relate(codes, codes[:, 3:]).cut is None  # so little may as well be an alignment


def test_far_shifts_need_half_of_the_shorter_one(codes):
    assert not relate(codes, delayed(codes, 60)).disguised and not relate(codes, delayed(codes, -60)).disguised
    assert {match.shift for match in relate(codes, delayed(codes, 30)).matches} == {30}


def test_two_silences_are_not_a_shift(codes):
    """Most of both is the same silence, at whatever shift; what moves has nothing in common."""
    a, b = (np.concatenate([np.random.default_rng(i).integers(0, 2048, (8, 30 + 12 * i)), np.full((8, 90), 7)], 1) for i in (0, 1))
    assert not relate(a, b).disguised
    assert {match.shift for match in relate(a, np.concatenate([np.full((8, 12), 7), a], 1)).matches} == {12}


def test_few_tokens_in_common_and_much_silence_are_not_a_disguise():
    """Backwards, the silences lie on each other and a fifth of what moves is the same: no chance, and no reversal either."""
    rng = np.random.default_rng(5)
    spoken, other = rng.integers(0, 2048, (2, 40))
    other[::5] = spoken[::-1][::5]
    silence = np.full(60, 7)
    relation = relate(np.concatenate([silence, spoken])[None], np.concatenate([other, silence])[None])
    assert not relation.disguised


def test_two_changes_at_once(codes):
    relation = relate(codes, delayed(codes, 2)[::-1] + 1)
    assert "is +1" in relation.findings[0] and "permuted" in relation.findings[1]
    assert "2 frames later" in relation.findings[2]


def test_streams_of_a_row_are_not_called_codebooks(codes):
    moved = np.concatenate([codes[:5], delayed(codes[5:], 1)])
    assert relate(codes, moved, "stream").findings == ("streams 5, 6, 7 of B are 1 frame later than in A",)


def test_what_is_unrelated_is_not_explained(codes):
    other = np.random.default_rng(5).integers(0, 2048, codes.shape)
    relation = relate(codes, other)
    assert not relation.disguised and max(match.agreement for match in relation.matches) < 0.1
    # Equal for the first half, then not: that is a divergence, and no disguise.
    half = np.concatenate([codes[:, :40], other[:, 40:]], 1)
    assert not relate(codes, half).disguised


def test_a_stuck_codebook_matches_everything_and_proves_nothing(codes):
    stuck = codes.copy()
    stuck[4] = 7
    relation = relate(stuck, stuck)
    assert not relation.disguised
    moved = relate(stuck, np.concatenate([stuck[:1], delayed(stuck[1:4], 1), stuck[4:5], delayed(stuck[5:], 1)]))
    assert moved.matches[4].identity and moved.matches[5].shift == 1


def test_few_frames_are_no_evidence():
    codes = np.arange(8).reshape(2, 4)
    assert not relate(codes, codes[:, ::-1]).disguised


@pytest.fixture
def sound():
    rng = np.random.default_rng(6)
    return np.cumsum(rng.standard_normal((12, 1920)), 1) * rng.uniform(0.2, 1, (12, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a, "B is A"),
        (lambda a: -0.5 * a, "B is A, with its sign turned, at 0.50 times the level"),
        (lambda a: np.roll(a.reshape(-1), 100).reshape(a.shape), "B is A, 100 samples later"),
        (lambda a: a.reshape(-1)[::-1].reshape(a.shape), "B is A reversed in time"),
        (lambda a: a[:, ::-1], "B is A with the samples of each frame reversed"),
        (lambda a: a[::-1], "B is A with its frames in reverse order"),
    ],
)
def test_sound_in_disguise(sound, change, words):
    assert relate_sound(sound, change(sound)).finding == words


def test_sounds_that_differ(sound):
    other = np.random.default_rng(7).standard_normal(sound.shape)
    assert "the sounds differ" in relate_sound(sound, other).finding
    assert relate_sound(sound, 0 * sound) is None and relate_sound(sound, sound[:0]) is None
