"""The few statistics the laboratory needs, exact where that is cheap; formulas in the docstrings."""

from math import ceil, comb, sqrt
from statistics import NormalDist


def wilson(successes: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson 1927).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes/runs; 0..1 where runs is 0.
    """
    if runs == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / runs
    centre, spread = p + z * z / (2 * runs), z * sqrt(p * (1 - p) / runs + z * z / (4 * runs * runs))
    scale = 1 + z * z / runs
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def sign_test(only_first: int, only_second: int) -> float:
    """Exact two-sided p of the sign test, which on pairs of successes and failures is McNemar's exact test.

    Of n = only_first + only_second discordant pairs each side wins one with probability 1/2:
    p = min(1, 2 P[Binomial(n, 1/2) <= min]). 1 where there are no discordant pairs.
    """
    n, low = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(comb(n, k) for k in range(low + 1)) / 2**n
    return min(1.0, 2 * tail)


def pairs_needed(only_first: int, only_second: int, pairs: int, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """How many pairs McNemar's test would need to see a difference as large as the observed one (Connor 1987).

    With the observed discordant shares p10, p01, d = p10 - p01 and s = p10 + p01:
    n = (z_{alpha/2} sqrt(s) + z_power sqrt(s - d^2))^2 / d^2, and never fewer than the exact test can do with. None where no
    difference was observed.
    """
    if pairs == 0 or only_first == only_second:
        return None
    d, s = (only_first - only_second) / pairs, (only_first + only_second) / pairs
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    needed = (z_alpha * sqrt(s) + z_power * sqrt(max(s - d * d, 0.0))) ** 2 / (d * d)
    return max(ceil(needed), ceil(fewest_discordant(alpha) / s))


def fewest_discordant(alpha: float = 0.05) -> int:
    """The fewest discordant pairs, all on one side, at which the exact sign test reaches `alpha`: 2 / 2^n <= alpha."""
    n = 1
    while sign_test(n, 0) > alpha:
        n += 1
    return n
