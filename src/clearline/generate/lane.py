"""One conversation in a lane of a batch: its settings, what it waits for, and what the device's numbers mean."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from clearline.audio import checked_frame
from clearline.config import GenerationConfig
from clearline.config.lm import UNGENERATED
from clearline.errors import SessionError
from clearline.generate.delays import TokenGrid, effective_delays
from clearline.generate.generator import LMFrame, checked_force, softmax
from clearline.generate.persona import Prompt
from clearline.generate.session import Frame, silent_tokens
from clearline.generate.text import LiveText

if TYPE_CHECKING:
    from clearline.generate.lanes import Lanes

MEMORY = 256  # spoken text tokens that a lane remembers for the repetition penalty


@dataclass(eq=False)
class Ticket:
    """One session's wish for one step, and what came of it.

    It hears pcm [frame_size], or is given codes [n_user]; text and audio are forced, said [1 + dep_q] is a prompt's frame.
    """

    session: "LaneSession"
    pcm: np.ndarray | None
    text: int
    audio: np.ndarray | None
    since: float
    codes: np.ndarray | None = None
    said: np.ndarray | None = None
    frame: Frame | None = None
    error: Exception | None = None
    done: bool = False

    def fail(self, error: Exception) -> None:
        self.error, self.done = error, True


class LaneSession:
    """What `clearline.Session` is, in a lane, for as long as it is open."""

    def __init__(self, lanes: "Lanes", lane: int, config: GenerationConfig, details: bool) -> None:
        self.lane = lane
        self.config = config
        self.details = details
        self.steps = self.frames = 0
        self.fresh = True  # nothing was heard or prompted yet
        self._prompts: TokenGrid | None = None
        self._lanes = lanes
        self._text = LiveText(silent_tokens(lanes.cfg), lanes.tokenizer)
        self._open = True

    def __enter__(self) -> "LaneSession":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the lane back; stepping afterwards is an error, closing again is not."""
        if self._open:
            self._open = False
            self._lanes.leave(self)

    def step(self, pcm: np.ndarray, force_text: int | None = None, force_audio: Sequence[int] | np.ndarray | None = None) -> Frame:
        """One frame of the user, as `Session.step`; waits for the batch it goes with."""
        text, audio = checked_force(self._lanes.cfg, force_text, force_audio)
        return self._wait(checked_frame(pcm, self._lanes.frame_size), text, audio)

    def end_input(self) -> Frame:
        """One frame that says the user's input is over, as `Session.end_input`."""
        cfg = self._lanes.cfg
        return self._wait(None, UNGENERATED, None, np.full(max(1, cfg.user_streams), cfg.card))

    def _wait(self, pcm: np.ndarray | None, text: int, audio: np.ndarray | None, codes: np.ndarray | None = None) -> Frame:
        frame = self._done(Ticket(self, pcm, text, audio, time.monotonic(), codes)).frame
        assert frame is not None
        return frame

    def _done(self, ticket: Ticket) -> Ticket:
        if not self._open:
            raise SessionError("this session is closed")
        self._lanes.wait(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket

    def prompt(self, prompt: Prompt, on_step: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Say a PersonaPlex' system prompt, as `Session.prompt`: a step of the batch for each of its frames.

        A prompt that fails gives the lane back.
        """
        if not self.fresh or self._prompts is not None:
            raise SessionError("a session is prompted once, before its first frame")
        try:
            self._say(prompt, on_step)
        except BaseException:
            self.close()
            raise

    def _say(self, prompt: Prompt, on_step: Callable[[int, int], None]) -> None:
        cfg, done = self._lanes.cfg, 0
        delays = effective_delays(cfg, self.config.acoustic_delay)
        self._prompts = TokenGrid(cfg, delays, self.config.user_offset)
        if prompt.saved is not None:
            for embedding in prompt.saved.embeddings:
                self._lanes.replay(self, embedding)
                on_step(done := done + 1, prompt.steps)
            tokens = prompt.saved.tokens
            self._prompts.jump(done, tokens)
            reached = np.asarray(delays)[:, None] >= np.arange(tokens.shape[1])
            self._lanes.jump(self, np.where(reached, tokens, UNGENERATED), done)
            self.steps = done
        for said, heard in prompt.frames():
            self._done(Ticket(self, None, UNGENERATED, None, time.monotonic(), heard, said))
            on_step(done := done + 1, prompt.steps)
        self.fresh = False

    def forced(self, ticket: Ticket) -> tuple[np.ndarray, bool]:
        """The tokens [1 + dep_q] that this step may not draw, and whether audio is forced; see `Generator.plan`. Once a step."""
        text, audio = ticket.text, ticket.audio
        if self._prompts is not None:
            if ticket.said is not None:
                self._prompts.prompt_own(ticket.said)
            prompted = self._prompts.prompted()
            self._prompts.step += 1
            text = int(prompted[0]) if text == UNGENERATED else text
            audio = prompted[1:] if audio is None and (prompted[1:] != UNGENERATED).any() else audio
        nothing = np.full(self._lanes.cfg.dep_q, UNGENERATED)
        return np.append(text, nothing if audio is None else audio), audio is not None

    def told(self, said: np.ndarray, sound: np.ndarray, details: dict[str, np.ndarray] | None, forced: np.ndarray) -> Frame:
        """What the device said of this lane's frame, as a frame; see `TorchFrame.width` for the order."""
        cfg = self._lanes.cfg
        self.frames += 1
        self.fresh = False
        own, rest = said[2 : 3 + cfg.dep_q], said[3 + cfg.dep_q :]
        row, codes_in = rest[: 1 + cfg.dep_q], rest[1 + cfg.dep_q :]
        if not said[0]:
            raise SessionError(f"the logits at step {self.steps - 1} contain NaN or infinite values: damaged weights?")
        codes = row.copy() if said[1] else None
        token = None if codes is None else int(codes[0])
        if self.config.early_text:
            token = int(own[0])
        text = "" if token is None else self._text.feed(token)
        codes_out = None if codes is None or cfg.dep_q == 0 else codes[1:]
        audible = codes_out is not None and bool((codes_out < cfg.card).all())
        lm = None if details is None else self._details(own, codes, details, forced)
        return Frame(sound if audible else None, text, token, codes_in.copy(), codes_out, lm)

    def _details(self, own: np.ndarray, codes: np.ndarray | None, found: dict[str, np.ndarray], forced: np.ndarray) -> LMFrame:
        cfg = self._lanes.cfg
        speaks = cfg.dep_q > 0
        audio_logits = found["audio_logits"]
        if (forced[1:] != UNGENERATED).all():  # the depformer had nothing to say
            audio_logits = np.full_like(audio_logits, np.nan)
        heads = [softmax(found[f"extra_heads.{k}"]) for k in range(cfg.extra_heads)]
        return LMFrame(
            self.steps - 1, found["row"], found["hidden"], found["text_logits"], int(own[0]), audio_logits if speaks else None,
            own[1:].copy() if speaks else None, codes, np.stack(heads) if heads else None,
        )  # fmt: skip
