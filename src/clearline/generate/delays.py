"""Token alignment: which token of which stream is fed, written and read at which step."""

from collections.abc import Sequence

import numpy as np

from clearline.config.lm import UNGENERATED, LMConfig
from clearline.errors import SessionError


def effective_delays(cfg: LMConfig, acoustic_delay: int | None) -> tuple[int, ...]:
    """The checkpoint's delays, or an acoustic delay forced on every codebook but the first of each speaker."""
    if acoustic_delay is None:
        return cfg.delays
    return (0, *(0 if k in (0, cfg.dep_q) else acoustic_delay for k in range(cfg.n_q)))


class TokenGrid:
    """The tokens of all streams around the current step, in a ring of max_delay + 2 columns.

    Canonical (Kyutai's PyTorch `LMGen`), at step o with delay d of a stream:
      - the user's token is written to column o + d (+ 1 with user_offset 1, as MLX and Rust have it);
      - column o is fed, but the initial token instead where o <= d;
      - what is sampled goes to column o + 1, for every stream of the model;
      - then column o + 1 - max_delay + d is one aligned output row, once o + 1 > max_delay.
    """

    def __init__(self, cfg: LMConfig, delays: Sequence[int], user_offset: int = 0) -> None:
        self._delays = np.asarray(delays)
        self._initial = np.asarray(cfg.initial_row)
        self._own = cfg.dep_q + 1
        self._user = np.arange(self._own, cfg.streams)
        self._user_offset = user_offset
        self.max_delay = int(self._delays.max())
        self._columns = self.max_delay + 2 + user_offset
        self._tokens = np.full((cfg.streams, self._columns), UNGENERATED)
        self._prompted = np.full((cfg.streams, self._columns), UNGENERATED)
        self.step = 0

    def write_user(self, codes: np.ndarray | int) -> None:
        """The user's codes [n_user] of this frame; they may be written again until the step is over."""
        columns = (self.step + self._delays[self._user] + self._user_offset) % self._columns
        self._tokens[self._user, columns] = codes

    def prompt_own(self, tokens: np.ndarray) -> None:
        """One aligned row [1 + dep_q] that the model is to say from this step on, each stream at its delay."""
        own = np.arange(self._own)
        self._prompted[own, (self.step + 1 + self._delays[own]) % self._columns] = tokens

    def prompted(self) -> np.ndarray:
        """What a prompt says at this step [1 + dep_q], UNGENERATED where it says nothing; it is forgotten after this."""
        column = (self.step + 1) % self._columns
        tokens = self._prompted[: self._own, column].copy()
        self._prompted[:, column] = UNGENERATED
        return tokens

    def jump(self, steps: int, tokens: np.ndarray) -> None:
        """Go `steps` on; `tokens` [streams, 1 + max_delay] are those of the step that comes then and of the ones after it."""
        self.step += steps
        for i in range(1 + self.max_delay):
            column = (self.step + i) % self._columns
            there = self._delays >= i
            self._tokens[there, column] = tokens[there, i]
            self._prompted[there, column] = tokens[there, i] if i else UNGENERATED

    def row(self) -> np.ndarray:
        """The row int64 [1 + n_q] to feed at this step."""
        row = np.where(self.step <= self._delays, self._initial, self._tokens[:, self.step % self._columns])
        if (row == UNGENERATED).any():
            missing = np.flatnonzero(row == UNGENERATED).tolist()
            raise SessionError(f"streams {missing} have no token for step {self.step}: the user's codes were not written")
        return row

    def write_own(self, text: int, audio: np.ndarray) -> None:
        """What was sampled at this step; the next step begins."""
        self.step += 1
        column = self.step % self._columns
        self._tokens[0, column] = text
        self._tokens[1 : self._own, column] = audio

    def read(self) -> np.ndarray | None:
        """The newest complete row int64 [1 + dep_q] of text and audio that belong together, or None in the first steps."""
        return self._aligned(self.step)

    def read_ahead(self, own: np.ndarray) -> np.ndarray | None:
        """What `read` will say once this step has written `own` [1 + dep_q]."""
        row = self._aligned(self.step + 1)
        return None if row is None else np.where(self._delays[: self._own] == self.max_delay, own, row)

    def _aligned(self, step: int) -> np.ndarray | None:
        if step <= self.max_delay:
            return None
        columns = (step - self.max_delay + self._delays[: self._own]) % self._columns
        return self._tokens[np.arange(self._own), columns]
