"""The noise against Philox as its authors define it, written again here in whole numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearline.generate.noise import Noise

MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k[0], high & MASK, (low >> 64) ^ c[3] ^ k[1], low & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def expected(seed: int, session: int, frame: int, stream: int, token: int) -> float:
    """-log of the middle of the cell of 2^-53 that the token's 64 bits fall into; blocks of four count from 1."""
    bits = philox([token // 4 + 1, 0, frame, stream], [seed, session])[token % 4]
    return -math.log(((bits >> 11) + 0.5) / 2**53)


def test_philox_gives_its_authors_known_answer():
    """kat_vectors of Random123: philox4x64 10, all zeros."""
    assert philox([0] * 4, [0] * 2) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


words = st.integers(0, MASK)


@given(words, words, st.integers(0, 2**40), st.integers(0, 33), st.integers(0, 2047))
def test_noise_is_philox_keyed_by_seed_session_frame_and_stream(seed, session, frame, stream, token):
    noise = Noise(seed, session).exponential(frame, stream, 2048, np.array([token]))
    assert noise.tolist() == pytest.approx([expected(seed, session, frame, stream, token)], rel=1e-14)


@given(st.permutations([(f, s) for f in range(3) for s in range(3)]))
def test_the_order_of_drawing_does_not_matter(order):
    ids = np.arange(16)
    alone = {(f, s): Noise(5).exponential(f, s, 16, ids).tolist() for f, s in order}
    shared = Noise(5)
    assert {(f, s): shared.exponential(f, s, 16, ids).tolist() for f, s in order} == alone


def test_a_token_keeps_its_noise_whoever_else_is_kept():
    noise = Noise(5)
    everyone = noise.exponential(2, 1, 100, np.arange(100))
    np.testing.assert_array_equal(noise.exponential(2, 1, 100, np.array([3, 50, 99])), everyone[[3, 50, 99]])
    np.testing.assert_array_equal(noise.exponential(2, 1, 64, np.arange(64)), everyone[:64])


@pytest.mark.parametrize("other", [(6, 0, 0, 0), (5, 1, 0, 0), (5, 0, 1, 0), (5, 0, 0, 1)])
def test_another_seed_session_frame_or_stream_is_other_noise(other):
    seed, session, frame, stream = other
    ids = np.arange(50)
    assert not np.isin(Noise(seed, session).exponential(frame, stream, 50, ids), Noise(5, 0).exponential(0, 0, 50, ids)).any()


def test_it_is_exponential_with_mean_one():
    """Kolmogorov-Smirnov: over 20 000 values, a distance above 1.95 / sqrt(n) comes once in a thousand seeds."""
    values = np.sort(np.concatenate([Noise(9).exponential(f, 0, 2000, np.arange(2000)) for f in range(10)]))
    assert (values > 0).all() and np.isfinite(values).all()
    distribution = 1 - np.exp(-values)
    rank = np.arange(1, values.size + 1) / values.size
    assert np.abs(distribution - rank).max() < 1.95 / math.sqrt(values.size)
