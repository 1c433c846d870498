"""Sampling against its definition: which tokens can come out, and how often each does."""

import math
from collections import Counter

import numpy as np
import pytest

from clearline import Sampling
from clearline.errors import ClearlineError
from clearline.generate.noise import Noise
from clearline.generate.sampler import sample

NOISE = Noise(seed=7)


def draw(logits, how: Sampling, count: int = 4000, **keywords) -> Counter:
    """Tokens drawn at `count` different frames."""
    return Counter(sample(np.asarray(logits), how, NOISE, frame, 0, **keywords) for frame in range(count))


def probabilities(logits, temperature: float = 1.0) -> list[float]:
    exps = [math.exp(x / temperature) for x in logits]
    return [e / sum(exps) for e in exps]


def chi_square(counts: Counter, p: dict[int, float]) -> float:
    total = sum(counts.values())
    return sum((counts[i] - total * q) ** 2 / (total * q) for i, q in p.items())


LOGITS = [2.0, 0.5, 1.5, -1.0, 0.0, 1.0, -0.5, -2.0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_argmax_of_p_over_noise_draws_with_probability_p(temperature):
    """Chi-square with 7 degrees of freedom: above 24.3 once in a thousand seeds, and the seed is fixed."""
    counts = draw(LOGITS, Sampling(temperature=temperature))
    p = dict(enumerate(probabilities(LOGITS, temperature)))
    assert chi_square(counts, p) < 24.3


def test_the_streams_of_a_frame_are_independent():
    """Pairs of draws from two streams of the same frames: chi-square with 3 degrees of freedom for 2 x 2 outcomes."""
    how, logits = Sampling(temperature=1.0), np.zeros(2)
    pairs = Counter((sample(logits, how, NOISE, f, 0), sample(logits, how, NOISE, f, 1)) for f in range(4000))
    assert sum((pairs[i, j] - 1000) ** 2 / 1000 for i in (0, 1) for j in (0, 1)) < 16.3


def test_temperature_zero_is_the_most_likely_and_ties_go_to_the_lowest_id():
    assert draw([0.0, 3.0, 1.0, 3.0], Sampling.greedy(), 20) == {1: 20}
    assert draw([5.0] * 6, Sampling.greedy(), 20) == {0: 20}


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_vanishing_temperature_is_greedy(temperature):
    assert draw(LOGITS, Sampling(temperature=temperature), 200) == {0: 200}


@pytest.mark.parametrize("k", [1, 2, 5, 8, 100])
def test_top_k_keeps_the_k_likeliest_and_their_proportions(k):
    counts = draw(LOGITS, Sampling(temperature=1.0, top_k=k))
    kept = sorted(range(len(LOGITS)), key=lambda i: -LOGITS[i])[:k]
    assert set(counts) == set(kept)
    p = probabilities([LOGITS[i] for i in kept])
    assert chi_square(counts, dict(zip(kept, p, strict=True))) < 24.3


def test_top_k_prefers_the_lowest_ids_among_ties():
    assert set(draw([1.0, 1.0, 1.0, 1.0, 0.0], Sampling(temperature=1.0, top_k=2), 300)) == {0, 1}
    assert set(draw([0.0, 2.0, 1.0, 1.0, 1.0], Sampling(temperature=1.0, top_k=3), 300)) == {1, 2, 3}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, {0, 1, 2}), (0.3, {0}), (0.5, {0, 1}), (0.6, {0, 1}), (0.85, {0, 1, 2}), (1.0, {0, 1, 2})]
)
def test_top_p_keeps_tokens_while_the_mass_before_them_is_at_most_p(top_p, kept):
    """Kyutai's `sample_top_p`: sorted, a token goes when cumsum - p > top_p. Here p = 0.5, 0.3, 0.2."""
    logits = np.log([0.5, 0.3, 0.2])
    assert set(draw(logits, Sampling(temperature=1.0, top_p=top_p), 500)) == kept


def test_top_p_always_keeps_the_likeliest():
    assert draw(np.log([0.98, 0.02]), Sampling(temperature=1.0, top_p=1e-9), 200) == {0: 200}


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, {0, 1, 2}), (0.3, {0, 1, 2}), (0.5, {0, 1}), (0.7, {0}), (1.0, {0})])
def test_min_p_keeps_tokens_above_a_share_of_the_likeliest(min_p, kept):
    """p = 0.5, 0.3, 0.2: shares 1, 0.6, 0.4."""
    assert set(draw(np.log([0.5, 0.3, 0.2]), Sampling(temperature=1.0, min_p=min_p), 500)) == kept


def test_filters_apply_in_the_order_top_k_top_p_min_p():
    """Of 0.4, 0.3, 0.2, 0.1 top-k 3 leaves 4/9, 3/9, 2/9; top-p 0.8 then drops nothing, though of the whole it would."""
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert set(draw(logits, Sampling(temperature=1.0, top_k=3, top_p=0.75), 500)) == {0, 1}
    assert set(draw(logits, Sampling(temperature=1.0, top_p=0.75), 500)) == {0, 1, 2}
    assert set(draw(logits, Sampling(temperature=1.0, top_k=3, top_p=0.8, min_p=0.6), 500)) == {0, 1}


def test_the_penalty_divides_positive_logits_and_multiplies_negative_ones():
    """Rust's rule. Greedy: 2.0 / 4 falls below 1.0; -0.1 * 4 falls below -0.3."""
    penalty = Sampling(temperature=0.0, repetition_penalty=4.0)
    assert draw([2.0, 1.0], penalty, 1, history=[0]) == {1: 1}
    assert draw([-0.1, -0.3], penalty, 1, history=[0]) == {1: 1}
    assert draw([2.0, 1.0], penalty, 1, history=[]) == {0: 1}


def test_the_penalty_counts_a_token_once_and_looks_back_only_so_far():
    how = Sampling(temperature=0.0, repetition_penalty=1.5, repetition_context=2)
    assert draw([2.0, 1.2], how, 1, history=[0, 0]) == {0: 1}  # 2 / 1.5 = 1.33, not 2 / 2.25 = 0.89
    assert draw([2.0, 1.9], how, 1, history=[0, 5, 6]) == {0: 1}  # token 0 is three tokens ago
    assert draw([2.0, 1.9], how, 1, history=[5, 0]) == {1: 1}


def test_the_penalty_ignores_tokens_that_have_no_logit():
    assert draw([2.0, 1.0], Sampling(temperature=0.0, repetition_penalty=4.0), 1, history=[2, 32000, -1]) == {0: 1}


def test_the_padding_bonus_multiplies_the_padding_probability():
    """Rust multiplies p(padding) by e^bonus after the temperature: p = 1/2 each becomes 3/4 and 1/4."""
    counts = draw([0.0, 0.0], Sampling(temperature=2.0, padding_bonus=math.log(3)), padding=1)
    assert chi_square(counts, {0: 0.25, 1: 0.75}) < 10.8


def test_the_padding_bonus_needs_a_padding_token():
    counts = draw([0.0, 0.0], Sampling(temperature=1.0, padding_bonus=50.0))
    assert chi_square(counts, {0: 0.5, 1: 0.5}) < 10.8


def test_the_logits_are_left_as_they_were():
    logits = np.array(LOGITS)
    sample(logits, Sampling(temperature=0.5, repetition_penalty=2.0, padding_bonus=1.0), NOISE, 0, 0, 3, [0, 1])
    assert logits.tolist() == LOGITS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", [Sampling.greedy(), Sampling(temperature=1.0, top_k=2)])
def test_logits_that_are_not_numbers_are_reported(bad, how):
    with pytest.raises(ClearlineError, match="step 3"):
        sample(np.array([0.0, bad, 1.0]), how, NOISE, 3, 0)
