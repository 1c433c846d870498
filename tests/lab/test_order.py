"""Frames of codes in order and out of it."""

import numpy as np
import pytest

import clearline
from clearline.lab.consistency import reference_speech
from clearline.lab.order import order_p


@pytest.fixture(scope="module")
def codec():
    return clearline.load_codec("nano")


@pytest.fixture(scope="module")
def codes(codec):
    """Of two different sentences' worth of speech: at its rate, and slower."""
    speech = reference_speech(codec.sample_rate)
    slower = np.interp(np.arange(0, len(speech), 0.8), np.arange(len(speech)), speech).astype(np.float32)
    return codec.encode(np.concatenate([speech, slower, speech[::-1]]), 8)


def test_speech_is_in_order(codec, codes):
    assert order_p(codec, codes) <= 0.01


def test_shuffled_frames_are_not(codec, codes):
    ps = [order_p(codec, codes[:, np.random.default_rng(seed).permutation(codes.shape[1])]) for seed in range(3)]
    assert np.median(ps) > 0.1


def test_what_cannot_be_told(codec, codes):
    assert order_p(codec, codes[:, :20]) is None
    stuck = np.repeat(codes[:, 20:21], 60, 1)
    assert order_p(codec, stuck) is None
