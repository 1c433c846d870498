"""Statistics against published numbers and exact fractions."""

import pytest

from clearline.lab.stats import fewest_discordant, pairs_needed, sign_test, wilson


def test_wilson_against_published_values():
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    for successes, runs, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson(successes, runs)
        assert found == pytest.approx((low, high), abs=6e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10)[1] == pytest.approx(1.0) and wilson(10, 10)[0] == pytest.approx(1 - wilson(0, 10)[1])


def test_sign_test_is_exact():
    assert sign_test(0, 0) == 1 and sign_test(3, 3) == 1 and sign_test(1, 0) == 1
    assert sign_test(5, 0) == 2 / 32 and sign_test(0, 6) == 2 / 64
    assert sign_test(8, 2) == 2 * (1 + 10 + 45) / 1024
    assert sign_test(2, 8) == sign_test(8, 2)
    assert fewest_discordant() == 6 and fewest_discordant(0.01) == 8


def test_pairs_needed():
    # By hand: p10 = 0.3, p01 = 0.1: d = 0.2, s = 0.4: (1.959964 * 0.632456 + 0.841621 * 0.6)^2 / 0.04 = 76.06
    assert pairs_needed(30, 10, 100) == 77
    assert pairs_needed(5, 5, 20) is None and pairs_needed(0, 0, 20) is None and pairs_needed(0, 0, 0) is None
    assert pairs_needed(3, 0, 3) == 6  # every pair goes one way: the exact test still wants six
    assert pairs_needed(10, 30, 100) == pairs_needed(30, 10, 100)
