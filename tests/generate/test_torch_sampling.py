"""Noise and sampling on the device: NumPy's bits, and the tokens of the host's sampler."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from clearline import Sampling  # noqa: E402
from clearline.backends.torch_philox import LaneNoise, as_bits, philox  # noqa: E402
from clearline.backends.torch_sample import LaneSampling, sample  # noqa: E402
from clearline.generate import sampler  # noqa: E402
from clearline.generate.noise import Noise  # noqa: E402

SEEDS = [(0, 0), (299792458, 7), (2**64 - 1, 2**63), (2**63 + 12345, 3)]
FRAMES = [0, 1, 2**40, 77]
KEY = torch.tensor([[as_bits(seed), as_bits(session)] for seed, session in SEEDS])


def test_the_bits_are_numpys():
    streams = [0, 1, 8, 2**33]
    stream, block = torch.tensor(streams).repeat_interleave(9), torch.arange(1, 10).repeat(4)
    bits = philox(KEY, torch.tensor(FRAMES), stream, block).numpy().view(np.uint64).reshape(4, 4, 36)
    for lane, (key, frame) in enumerate(zip(SEEDS, FRAMES, strict=True)):
        for number, counted in enumerate(streams):
            counter = np.array([0, 0, frame, counted], np.uint64)
            expected = np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(36)
            np.testing.assert_array_equal(bits[lane, number], expected)


def test_the_noise_is_the_hosts():
    counts = [33, 4, 1, 1, 1, 6]
    noise = LaneNoise(4, counts, torch.device("cpu"))
    noise.draw(KEY, torch.tensor(FRAMES))
    for lane, (key, frame) in enumerate(zip(SEEDS, FRAMES, strict=True)):
        for stream, count in enumerate(counts):
            assert noise.streams[stream].shape == (4, count) and noise.streams[stream].dtype == torch.float64
            expected = Noise(*key).exponential(frame, stream, count, np.arange(count))
            np.testing.assert_allclose(noise.streams[stream][lane], expected, rtol=1e-15)


SETTINGS = [
    Sampling(),
    Sampling.greedy(),
    Sampling(temperature=0.7, top_k=25),
    Sampling(top_k=1),
    Sampling(top_k=10_000),
    Sampling(top_p=0.8),
    Sampling(top_p=1.0),
    Sampling(min_p=0.1),
    Sampling(temperature=1.5, top_k=40, top_p=0.9, min_p=0.02),
    Sampling(temperature=0.01),
    Sampling(repetition_penalty=1.5, repetition_context=3),
    Sampling(repetition_penalty=0.5, repetition_context=0),
    Sampling(repetition_penalty=3.0),
    Sampling(padding_bonus=4.0),
    Sampling(temperature=0.0, padding_bonus=-50.0, repetition_penalty=2.0),
]


@pytest.mark.parametrize("kind", ["ordinary", "ties", "flat", "large"])
def test_tokens_are_the_host_samplers(kind):
    """A lane for each setting, all in one batch, over many frames; logits with and without ties."""
    lanes, card, padding = len(SETTINGS), 101, 3
    how = LaneSampling(lanes, torch.device("cpu"))
    for lane, settings in enumerate(SETTINGS):
        how.set(lane, settings)
    rng = np.random.default_rng(8)
    history = rng.integers(0, card, (lanes, 7))
    history[:, :2] = -1  # not everything is filled yet
    key = torch.tensor([[lane, 0] for lane in range(lanes)])
    noise = LaneNoise(lanes, [card] * 5, torch.device("cpu"))
    drawn: list[set[int]] = [set() for _ in range(lanes)]
    for frame in range(25):
        logits = {
            "ordinary": lambda: 3 * rng.standard_normal((lanes, card)),
            "ties": lambda: rng.integers(-2, 3, (lanes, card)).astype(np.float64),
            "flat": lambda: np.zeros((lanes, card)),
            "large": lambda: 1e4 * rng.standard_normal((lanes, card)),
        }[kind]().astype(np.float32)
        noise.draw(key, torch.full((lanes,), frame))
        tokens, sound = sample(torch.from_numpy(logits), how, noise.streams[4], padding, torch.from_numpy(history))
        assert sound.all()
        for lane, settings in enumerate(SETTINGS):
            spoken = [token for token in history[lane].tolist() if token >= 0]
            expected = sampler.sample(logits[lane], settings, Noise(lane), frame, 4, padding, spoken)
            assert tokens[lane] == expected, (settings, frame)
            drawn[lane].add(expected)
    assert kind == "large" or len(drawn[0]) > 10  # it does draw


def test_logits_that_are_no_numbers_are_told_and_disturb_nobody():
    how = LaneSampling(3, torch.device("cpu"))
    for lane in range(3):
        how.set(lane, Sampling.greedy())
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, float("nan"), 1.0], [3.0, float("inf"), 1.0]])
    tokens, sound = sample(logits, how, torch.ones(3, 3, dtype=torch.float64))
    assert sound.tolist() == [True, False, False] and tokens[0] == 1


def test_the_text_of_the_future_is_no_repetition():
    """Tokens that are not in the vocabulary, such as the initial one, are not looked for in the logits."""
    how = LaneSampling(1, torch.device("cpu"))
    how.set(0, Sampling(temperature=0.0, repetition_penalty=100.0))
    tokens, _ = sample(torch.tensor([[1.0, 2.0]]), how, torch.ones(1, 2, dtype=torch.float64), None, torch.tensor([[2, 500, 1]]))
    assert tokens.tolist() == [0]
