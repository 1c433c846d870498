"""Memory by the page: arrays do not overlap, whoever asks, and begin where a cache line does."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clearline.backends.pages import HugeMemory, lazy_zeros


def test_arrays_are_apart_and_aligned():
    memory = HugeMemory()
    sizes = np.random.default_rng(0).integers(1, 200_000, 400).tolist()

    def fill(number: int) -> np.ndarray:
        array = memory.empty((sizes[number],), np.uint16)
        array[:] = number
        return array

    with ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(fill, range(len(sizes))))
    for number, array in enumerate(arrays):
        assert (array == number).all() and array.ctypes.data % 64 == 0 and len(array) == sizes[number]


def test_one_larger_than_a_chunk():
    memory = HugeMemory()
    small, large, after = (memory.empty((size,), np.uint8) for size in (10, 80 << 20, 10))
    small[:], large[:], after[:] = 1, 2, 3
    assert (small == 1).all() and (large == 2).all() and (after == 3).all()


def test_lazy_zeros_are_zeros_of_their_own():
    first, second = (lazy_zeros((2, 3, 5), np.float32) for _ in range(2))
    first[1, 2, 4] = 7
    assert first.sum() == 7 and not second.any()
    assert lazy_zeros((0, 4), np.int8).shape == (0, 4)
