"""A whole step in one program: whatever the device guesses, the tokens are the host sampler's."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, model

from clearline import GenerationConfig, Sampling
from clearline.backends import get_backend
from clearline.generate import Generator
from clearline.ops import lazy

GUESSING = [name for name in BACKENDS if lazy(get_backend(name)) is not None]
WAYS = {
    "greedy": Sampling.greedy(),
    "free": Sampling(0.9),
    "top-k": Sampling(0.8, top_k=5),
    "top-p": Sampling(0.8, top_p=0.7),
    "min-p": Sampling(1.2, min_p=0.2),
    "all": Sampling(0.7, top_k=12, top_p=0.9, min_p=0.05),
}


class Counted:
    """A program that counts its runs."""

    def __init__(self, program) -> None:
        self.program, self.runs = program, 0

    def run(self, state, inputs):
        self.runs += 1
        return self.program.run(state, inputs)


def generators(backend: str, config: GenerationConfig, case: str = "moshi_d1"):
    """One that guesses, one that goes step by step, and the depth programs of the first."""
    programs = model(case, backend).programs
    guessing, plain = Generator(programs, config), Generator(programs, config)
    assert guessing.whole is not None
    plain.whole = None
    return guessing, plain


@pytest.mark.parametrize("backend", GUESSING)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_tokens_and_logits_without_a_single_step_more(backend, way, monkeypatch):
    config = GenerationConfig(text=WAYS[way], audio=WAYS[way], seed=7)
    guessing, plain = generators(backend, config)
    rng = np.random.default_rng(1)
    counted = [Counted(program) for program in guessing._programs.depth]
    for t in range(30):
        codes = rng.integers(0, guessing._cfg.card, guessing._cfg.user_streams)
        expected = plain.step(codes)
        with monkeypatch.context() as patch:
            patch.setattr(guessing._programs, "depth", counted)
            found = guessing.step(codes)
        assert found.text_token == expected.text_token, t
        np.testing.assert_array_equal(found.audio_tokens, expected.audio_tokens)
        for name in ("hidden", "text_logits", "audio_logits"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    # A device that draws by other rules would be right now and then; the runs of the depformer it costs say so.
    assert sum(program.runs for program in counted) == 0


@pytest.mark.parametrize("backend", GUESSING)
@pytest.mark.parametrize("wrong", [0, 1, 2], ids=["text", "first codebook", "second codebook"])
def test_a_wrong_guess_is_put_right(backend, wrong):
    """The host goes on from the first token it does not agree with, on the state the guess left."""
    config = GenerationConfig(text=Sampling(0.9), audio=Sampling(0.9), seed=3)
    guessing, plain = generators(backend, config)
    honest = guessing.whole

    class Mistaken:
        def run(self, state, inputs):
            out = honest.run(state, inputs)
            card = guessing._cfg.card
            guess = out["guess"].copy()
            guess[wrong] = (guess[wrong] + 1) % card
            logits = out["audio_logits"].copy()
            logits[wrong:] += np.random.default_rng(0).standard_normal(logits[wrong:].shape)  # of a token nobody said
            return out | {"guess": guess, "audio_logits": logits}

    guessing.whole = Mistaken()
    rng = np.random.default_rng(2)
    for _ in range(20):
        codes = rng.integers(0, guessing._cfg.card, guessing._cfg.user_streams)
        expected, found = plain.step(codes), guessing.step(codes)
        assert found.text_token == expected.text_token
        np.testing.assert_array_equal(found.audio_tokens, expected.audio_tokens)
        np.testing.assert_allclose(found.audio_logits, expected.audio_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", GUESSING)
def test_penalties_that_the_device_does_not_know(backend):
    text = Sampling(0.9, repetition_penalty=3.0, padding_bonus=2.0)
    guessing, plain = generators(backend, GenerationConfig(text=text, audio=Sampling(0.9), seed=5))
    rng = np.random.default_rng(3)
    for _ in range(30):
        codes = rng.integers(0, guessing._cfg.card, guessing._cfg.user_streams)
        expected, found = plain.step(codes), guessing.step(codes)
        assert found.text_token == expected.text_token
        np.testing.assert_array_equal(found.audio_tokens, expected.audio_tokens)


@pytest.mark.parametrize("backend", GUESSING)
def test_forced_tokens(backend):
    config = replace(GenerationConfig(text=Sampling(0.9), audio=Sampling(0.9), seed=9), pad_early_acoustic=True)
    guessing, plain = generators(backend, config)
    rng = np.random.default_rng(4)
    dep_q = guessing._cfg.dep_q
    for t in range(20):
        codes = rng.integers(0, guessing._cfg.card, guessing._cfg.user_streams)
        text = int(rng.integers(0, guessing._cfg.text_card)) if t % 2 else None
        audio = np.where(rng.random(dep_q) < 0.5, rng.integers(0, guessing._cfg.card, dep_q), -2) if t % 3 else None
        if t == 11:
            audio = rng.integers(0, guessing._cfg.card, dep_q)  # all of them: the depformer does not run
        expected, found = plain.step(codes, text, audio), guessing.step(codes, text, audio)
        assert found.text_token == expected.text_token
        np.testing.assert_array_equal(found.audio_tokens, expected.audio_tokens)
        np.testing.assert_allclose(found.audio_logits, expected.audio_logits, rtol=1e-4, atol=1e-5)
