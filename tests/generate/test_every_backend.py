"""Sessions on the other backends: the same seed, the same bytes, alone, in turns, in a batch. (onnx: test_sessions.py)"""

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, model, speech

FRAMES = 6
pytestmark = pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("onnx", "numpy64")])


def said(frame) -> tuple:
    codes = None if frame.codes_out is None else frame.codes_out.tolist()
    return (frame.text_token, frame.text, frame.codes_in.tolist(), codes, None if frame.pcm is None else frame.pcm.tobytes())


def alone(backend: str, seed: int, number: int) -> list[tuple]:
    with model("moshi_d1", backend).session(seed=seed) as session:
        return [said(session.step(frame)) for frame in speech(FRAMES, number).reshape(-1, 1920)]


def test_the_same_seed_says_the_same_bytes_whatever_came_before(backend):
    first = alone(backend, 3, 1)
    assert alone(backend, 4, 2) != first
    assert alone(backend, 3, 1) == first


def test_a_batch_and_sessions_in_turns_are_what_they_are_alone(backend):
    inputs = [speech(FRAMES, number).reshape(-1, 1920) for number in (1, 2)]
    expected = [alone(backend, 7, 1), alone(backend, 8, 2)]
    together: list[list[tuple]] = [[], []]
    with model("moshi_d1", backend).batch(seeds=[7, 8], workers=2) as batch:
        for frames in zip(*inputs, strict=True):
            for answers, frame in zip(together, batch.step(np.stack(frames)), strict=True):
                answers.append(said(frame))
    assert together == expected
    a, b = (model("moshi_d1", backend).session(seed=seed) for seed in (7, 8))
    from_a, from_b = [], []
    for number, frame in enumerate(inputs[0]):
        from_a.append(said(a.step(frame)))
        if number % 2:
            from_b.append(said(b.step(inputs[1][len(from_b)])))
    assert from_a == expected[0] and from_b == expected[1][: len(from_b)]
