"""The language model: sessions share nothing, and the ring keeps the right keys long after it has wrapped."""

import numpy as np
import pytest
from helpers.checkpoints import BACKENDS, CASES, GREEDY, assert_close, golden, model


def run(generator, codes, steps: int | None = None) -> list[tuple]:
    frames = [generator.step(row) for row in codes[:steps]]
    return [(f.text_token, None if f.audio_tokens is None else f.audio_tokens.tolist(), f.hidden.tobytes()) for f in frames]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["moshi_d1", "odd", "schedule", "stt"])
def test_interleaved_generators_are_what_they_are_alone(case, backend):
    loaded, codes = model(case, backend), golden(case)["user_codes"]
    alone = [run(loaded.generator(GREEDY), part) for part in (codes[:30], codes[30:60])]
    one, two = loaded.generator(GREEDY), loaded.generator(GREEDY)
    mixed: list[list[tuple]] = [[], []]
    for first, second in zip(codes[:30], codes[30:60], strict=True):
        mixed[0] += run(one, [first])
        mixed[1] += run(two, [second])
    assert mixed == alone


@pytest.mark.parametrize("case", CASES)
def test_far_past_twice_the_ring_every_backend_agrees_with_the_reference(case):
    """The whole golden run of 300 steps, teacher-forced so that no choice can hide a difference: contexts are 5 to 24."""
    g = golden(case)
    steps = len(g["user_codes"])
    assert steps > 10 * model(case).config.transformer.context
    reference, fast = model(case, "numpy64").generator(GREEDY), model(case).generator(GREEDY)
    for t in range(steps):
        forced = (int(g["text_token"][t]), g["audio_tokens"][t] if "audio_tokens" in g else None)
        a, b = (generator.step(g["user_codes"][t], *forced) for generator in (reference, fast))
        if t % 10 == 0 or t > steps - 20:
            assert_close(b.hidden, a.hidden, f"hidden at {t}")
            assert_close(b.text_logits, a.text_logits, f"text logits at {t}")


def test_a_window_forgets_exactly_what_left_it():
    """Two histories that differ only before the window give the same last step, and differ while the difference is inside.

    With L layers the receptive field is L (context - 1) + 1 steps.
    """
    cfg = model("moshi_d1").config
    field = cfg.transformer.num_layers * (cfg.transformer.context - 1) + 1
    rng = np.random.default_rng(1)
    codes = rng.integers(0, cfg.card, (field + 8, cfg.user_streams))
    text, audio = rng.integers(4, 300, field + 8), rng.integers(0, cfg.card, (field + 8, cfg.dep_q))

    def hidden(changed: int, steps: int) -> np.ndarray:
        """The last hidden state of `steps` steps, the text of step `changed` being another one."""
        generator = model("moshi_d1", "numpy64").generator(GREEDY)
        for t in range(steps):
            out = generator.step(codes[t], int(text[t]) + (t == changed), audio[t])
        return out.hidden

    # The text of step 2 is fed at step 3: visible to the step `field - 1` later, and to none after it.
    last = 3 + field
    assert np.abs(hidden(2, last) - hidden(-1, last)).max() > 0
    np.testing.assert_array_equal(hidden(2, last + 1), hidden(-1, last + 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_input_is_an_exact_zero_row(backend):
    """-1 on every user stream, against a model whose user embeddings are all zero."""
    loaded = model("delay0", backend)
    nothing = loaded.generator(GREEDY)
    frames = [nothing.step(np.full(loaded.config.user_streams, -1)) for _ in range(3)]
    assert all(np.isfinite(frame.hidden).all() for frame in frames)
    other = loaded.generator(GREEDY)
    changed = [other.step(np.zeros(loaded.config.user_streams, np.int64)) for _ in range(3)]
    # With all delays 0 the first step feeds initial tokens only, whatever the user says.
    np.testing.assert_array_equal(frames[0].hidden, changed[0].hidden)
    assert np.abs(frames[1].hidden - changed[1].hidden).max() > 0


def test_codes_beyond_the_users_are_ignored():
    """A codec with more codebooks than the model listens to."""
    loaded, codes = model("moshi_d1"), golden("moshi_d1")["user_codes"][:5]
    assert run(loaded.generator(GREEDY), np.pad(codes, ((0, 0), (0, 2)))) == run(loaded.generator(GREEDY), codes)
