"""Keyed randomness: the noise of a token depends on (seed, session, frame, stream, token id) and on nothing else."""

import numpy as np


class Noise:
    """Exponential noise from NumPy's Philox with key (seed, session) and counter (block, 0, frame, stream).

    The same on every backend and machine, whatever ran before and whoever runs beside.
    """

    def __init__(self, seed: int, session: int = 0) -> None:
        self._key = np.array([seed, session], np.uint64)

    def exponential(self, frame: int, stream: int, count: int, ids: np.ndarray) -> np.ndarray:
        """Exp(1) noise float64 of the given token ids, out of `count` tokens."""
        raw = np.random.Philox(key=self._key, counter=np.array([0, 0, frame, stream], np.uint64)).random_raw(count)
        # The middle of each of 2^53 cells: never 0, never 1, so the logarithm is finite and the noise positive.
        uniform = ((raw[ids] >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return -np.log(uniform)
