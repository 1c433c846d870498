"""A conversation: one 80 ms frame of the user in, one frame of the model out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np

from clearline.config import GenerationConfig, LMConfig
from clearline.errors import SessionError
from clearline.generate.codec import Codec
from clearline.generate.generator import Generator, LMFrame
from clearline.generate.persona import Prompt
from clearline.generate.programs import LMPrograms
from clearline.generate.text import LiveText, Tokenizer
from clearline.generate.whole_frame import whole_frame


@dataclass(frozen=True)
class Frame:
    """What one step of a session produced.

    pcm float32 [frame_size] at the codec's rate, or None: while the first max_delay frames are collected, and always for
    speech-to-text models. text is what the frame adds to the transcript, text_token its token (None when there is none
    yet). codes_in int64 [n_user] are the user's; codes_out int64 [dep_q] belong to pcm. `lm` has the details of the
    language model's step.
    """

    pcm: np.ndarray | None
    text: str
    text_token: int | None
    codes_in: np.ndarray
    codes_out: np.ndarray | None
    lm: LMFrame | None


class Session:
    """One conversation; open it with `model.session(...)`. Sessions share weights and nothing else."""

    def __init__(
        self,
        codec: Codec,
        programs: LMPrograms,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        session: int = 0,
        guide: LMPrograms | None = None,
    ) -> None:
        cfg = programs.cfg
        self._cfg: LMConfig = cfg
        self._codec = codec
        self._config = config
        self._stream = codec.stream(max(1, cfg.user_streams))
        self._generator = Generator(programs, config, session, guide)
        self._whole = whole_frame(self._stream, self._generator)
        self._text = LiveText(silent_tokens(cfg), tokenizer)
        self._frames = 0
        self._prompted = False
        self._open = True

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the session's state; stepping it afterwards is an error, closing it again is not."""
        if self._open:
            self._open = False
            del self._stream, self._generator, self._whole

    def step(self, pcm: np.ndarray, force_text: int | None = None, force_audio: Sequence[int] | np.ndarray | None = None) -> Frame:
        """One frame of the user: pcm [frame_size] mono at the codec's rate, nominally in -1..1.

        force_text and force_audio [dep_q] make the model say these tokens (teacher forcing, prompts); -2 samples.
        """
        if not self._open:
            raise SessionError("this session is closed")
        self._generator.checked_force(force_text, force_audio)  # before the codec hears the frame
        if self._whole is None or self._is_first:
            return self._advance(self._stream.encode(pcm), force_text, force_audio)
        codes_in, lm, audio = self._whole.step(pcm, force_text, force_audio)
        return self._told(codes_in, lm, audio)

    def prompt(self, prompt: Prompt, on_step: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Say a PersonaPlex' system prompt, before the first frame; `on_step` is told how many of its steps are done.

        Nothing of it is heard but its last frame, which is silence and comes out with the first frame of the user.
        """
        if not self._open or self._frames or self._prompted:
            raise SessionError("a session is prompted once, before its first frame")
        self._prompted = True
        done, total = 0, prompt.steps

        def count() -> None:
            nonlocal done
            done += 1
            on_step(done, total)

        if prompt.saved is not None:
            self._generator.replay(prompt.saved.embeddings, prompt.saved.tokens, count)
        for own, user in prompt.frames():
            self._generator.step(user, prompt=own)
            count()

    def end_input(self) -> Frame:
        """One frame that says the user's input is over: `card` on every codebook, which the codec never hears (Hibiki)."""
        if not self._open:
            raise SessionError("this session is closed")
        return self._advance(np.full(self._cfg.user_streams, self._cfg.card))

    def _advance(
        self, codes_in: np.ndarray, force_text: int | None = None, force_audio: Sequence[int] | np.ndarray | None = None
    ) -> Frame:
        first = self._is_first
        self._frames += 1
        if first and self._config.first_frame == "restart":
            self._stream.restart_encoder()
        if first and self._config.first_frame == "twice":
            self._generator.step(codes_in, force_text, force_audio)
        lm = self._generator.step(codes_in, force_text, force_audio)
        audio = None
        if lm.codes is not None and self._generator.sayable(lm.codes):
            audio = self._stream.decode(lm.codes[1:])
        return self._told(codes_in, lm, audio)

    @property
    def _is_first(self) -> bool:
        return self._frames == 0 and not self._prompted

    def _told(self, codes_in: np.ndarray, lm: LMFrame, audio: np.ndarray | None) -> Frame:
        """What a frame came to."""
        token = None if lm.codes is None else int(lm.codes[0])
        if self._config.early_text:
            token = lm.text_token
        text = "" if token is None else self._text.feed(token)
        codes_out = None if lm.codes is None or self._cfg.dep_q == 0 else lm.codes[1:]
        return Frame(None if audio is None else audio.astype(np.float32), text, token, codes_in, codes_out, lm)


class Stepped(Protocol):
    """What a batch steps: a session, or a lane of a device."""

    def step(self, pcm: np.ndarray, /) -> Frame: ...
    def close(self) -> None: ...


class Batch:
    """Several independent sessions stepped together; each gives exactly what it would give alone."""

    def __init__(self, sessions: Sequence["Stepped"], workers: int) -> None:
        if not sessions or not isinstance(workers, int) or not 1 <= workers <= 1024:
            raise SessionError(f"a batch needs at least one seed and 1..1024 workers, got {len(sessions)} and {workers!r}")
        self.sessions = list(sessions)
        self._open = True
        self._pool = ThreadPoolExecutor(workers)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open = False
        for session in self.sessions:
            session.close()
        self._pool.shutdown()

    def step(self, pcm: np.ndarray) -> list[Frame]:
        """One frame of every user: pcm [sessions, frame_size]."""
        if not self._open:
            raise SessionError("this batch is closed")
        if len(pcm) != len(self.sessions):
            raise SessionError(f"the batch has {len(self.sessions)} sessions, got {len(pcm)} frames")
        return list(self._pool.map(lambda session, frame: session.step(frame), self.sessions, pcm))


def silent_tokens(cfg: LMConfig) -> frozenset[int]:
    """Text tokens that are never words: padding, end of padding, and the initial token."""
    return frozenset((cfg.text_padding, cfg.text_end_padding, cfg.text_card))
