"""Token alignment against the three official implementations, each written again here with plain lists.

The references follow the rules of `LMGen._step` (PyTorch), `LmGen._step` (moshi_mlx) and
`lm_generate_multistream.rs` (Rust); they share no code and no idea of a ring with Clearline's TokenGrid.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearline.config import DepformerConfig, LMConfig, TransformerConfig
from clearline.errors import SessionError
from clearline.generate.delays import TokenGrid, effective_delays

CARD, TEXT_CARD = 1000, 5000


def config(delays: list[int], dep_q: int) -> LMConfig:
    n_q = len(delays) - 1
    depformer = DepformerConfig(TransformerConfig(4, 1, 1, (4,), 8)) if dep_q else None
    return LMConfig(TransformerConfig(4, 1, 1, (4,), 8), depformer, n_q, dep_q, CARD, TEXT_CARD, TEXT_CARD, tuple(delays))


@dataclass
class PyTorch:
    """`cache[stream][position]` without end; -2 where nothing was written."""

    delays: list[int]
    dep_q: int
    cache: list[dict[int, int]] = field(default_factory=list)
    offset: int = 0

    def __post_init__(self):
        self.cache = [{} for _ in self.delays]

    def feed(self, user):
        for k, token in enumerate(user):
            stream = self.dep_q + 1 + k
            self.cache[stream][self.offset + self.delays[stream]] = token
        initial = [TEXT_CARD] + [CARD] * (len(self.delays) - 1)
        return [
            initial[s] if self.offset <= self.delays[s] else self.cache[s].get(self.offset, -2) for s in range(len(self.delays))
        ]

    def sampled(self, text, audio):
        self.offset += 1
        for s, token in enumerate([text, *audio]):
            self.cache[s][self.offset] = token
        most = max(self.delays)
        if self.offset <= most:
            return None
        return [self.cache[s].get(self.offset - most + self.delays[s], -2) for s in range(self.dep_q + 1)]


@dataclass
class MLX:
    """One table of whole frames: tokens lie at the frame they belong to and are read `delay` frames and one step later."""

    audio_delays: list[int]
    dep_q: int
    table: dict[tuple[int, int], int] = field(default_factory=dict)
    step: int = 0

    def feed(self, user):
        for k, token in enumerate(user):
            self.table[1 + self.dep_q + k, self.step] = token
        row = [TEXT_CARD if self.step == 0 else self.table[0, self.step - 1]]
        for k, delay in enumerate(self.audio_delays):
            at = self.step - 1 - delay
            row.append(self.table[k + 1, at] if at >= 0 else CARD)
        return row

    def sampled(self, text, audio):
        self.table[0, self.step] = text
        for k, token in enumerate(audio):
            if self.step - self.audio_delays[k] >= 0:
                self.table[k + 1, self.step - self.audio_delays[k]] = token
        self.step += 1
        at = self.step - 1 - max(self.audio_delays)
        return None if at < 0 else [self.table[k + 1, at] for k in range(self.dep_q)]


@dataclass
class Rust:
    """As MLX's, but one acoustic delay for every codebook except the first of each speaker, whatever the config says."""

    codebooks: int
    dep_q: int
    delay: int
    table: dict[tuple[int, int], int] = field(default_factory=dict)
    text: int = TEXT_CARD
    step: int = 0

    def feed(self, user):
        for k, token in enumerate(user):
            self.table[self.step, self.dep_q + k] = token
        row = [self.text]
        for k in range(self.codebooks):
            if k in (0, self.dep_q):
                row.append(CARD if self.step == 0 else self.table[self.step - 1, k])
            elif self.step <= self.delay:
                row.append(CARD)
            else:
                row.append(self.table[self.step - self.delay - 1, k])
        return row

    def sampled(self, text, audio):
        self.text = text
        for k, token in enumerate(audio):
            self.table[max(0, self.step - (0 if k == 0 else self.delay)), k] = token
        self.step += 1
        if self.step <= self.delay:
            return None
        return [self.table[self.step - self.delay - 1, k] for k in range(self.dep_q)]


streams = st.integers(1, 6).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 3), min_size=n + 1, max_size=n + 1), st.integers(0, n))
)


def tokens(step: int, streams: list[int]) -> list[int]:
    """A token that says which step and stream it is of."""
    return [step * 16 + stream for stream in streams]


def run(grid: TokenGrid, reference, n_user: int, dep_q: int, compare_output) -> None:
    for step in range(20):
        user = tokens(step, list(range(dep_q + 1, dep_q + 1 + n_user)))
        grid.write_user(np.array(user, np.int64))
        assert grid.row().tolist() == reference.feed(user), f"row of step {step}"
        text, *audio = tokens(step, list(range(dep_q + 1)))
        grid.write_own(text, np.array(audio, np.int64))
        compare_output(grid.read(), reference.sampled(text, audio), step)


@given(streams)
def test_pytorch_alignment(case):
    """Rows fed and rows returned, for any delays 0..3 of text, own and user streams."""
    delays, dep_q = case
    cfg = config(delays, dep_q)

    def same(ours, theirs, step):
        assert (None if ours is None else ours.tolist()) == theirs, f"output of step {step}"

    run(TokenGrid(cfg, cfg.delays), PyTorch(delays, dep_q), cfg.user_streams, dep_q, same)


@given(streams)
def test_mlx_alignment(case):
    """user_offset 1. MLX has no text delay, and looks for output only as far back as its audio delays."""
    (_, *audio_delays), dep_q = case
    cfg = config([0, *audio_delays], dep_q)

    def same(ours, theirs, step):
        assert (None if ours is None else ours[1:].tolist()) == theirs, f"output of step {step}"

    run(TokenGrid(cfg, cfg.delays, user_offset=1), MLX(audio_delays, dep_q), cfg.user_streams, dep_q, same)


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3))
def test_rust_alignment(dep_q, n_user, forced_delay, config_delay):
    """user_offset 1 and a forced acoustic delay: the checkpoint's own delays are ignored."""
    n_q = dep_q + n_user
    cfg = config([0] + [config_delay] * n_q, dep_q)
    delays = effective_delays(cfg, forced_delay)
    # With a single codebook a speaker there is no delayed stream; Rust still waits for its delay before it answers.
    visible = max(delays) == forced_delay

    def same(ours, theirs, step):
        if visible:
            assert (None if ours is None else ours[1:].tolist()) == theirs, f"output of step {step}"

    run(TokenGrid(cfg, delays, user_offset=1), Rust(n_q, dep_q, forced_delay), n_user, dep_q, same)


def test_effective_delays_of_the_released_7b():
    """FACTS.md: trained with delay 1; Rust's generator forces 2."""
    cfg = config([0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1], 8)
    assert effective_delays(cfg, None) == (0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1)
    assert effective_delays(cfg, 2) == (0, 0, 2, 2, 2, 2, 2, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2)


@settings(max_examples=20)
@given(st.integers(1, 40))
def test_frame_zero_is_never_heard_by_pytorch_rules(steps):
    """A row at offset <= delay is the initial token: the user's frame 0 is written and never read."""
    cfg = config([0, 0, 1, 0, 1], 2)
    grid = TokenGrid(cfg, cfg.delays)
    heard = []
    for step in range(steps):
        grid.write_user(np.array([step, step]))
        heard.append(grid.row()[3:].tolist())
        grid.write_own(1, np.array([1, 1]))
    assert heard == [[CARD, CARD], [1, CARD], *([s, s - 1] for s in range(2, steps))][:steps]


def test_a_step_without_the_users_codes_is_an_error():
    cfg = config([0, 0, 1, 0, 1], 2)
    grid = TokenGrid(cfg, cfg.delays)
    grid.write_user(np.array([1, 2]))
    grid.row()
    grid.write_own(1, np.array([1, 1]))
    with pytest.raises(SessionError, match=r"streams \[3\].*step 1"):
        grid.row()
