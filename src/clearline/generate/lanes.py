"""Sessions that share a device: a fixed batch of lanes, stepped together; who is ready takes part, the others wait untouched."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from clearline.config import GenerationConfig, LMConfig
from clearline.config.lm import UNGENERATED
from clearline.errors import AudioError, SessionError
from clearline.generate.codec import Codec
from clearline.generate.generator import LMFrame, checked_force, softmax
from clearline.generate.programs import LMPrograms
from clearline.generate.session import Frame, silent_tokens
from clearline.generate.text import LiveText, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

HEARD = -3  # in place of given user codes: those that the codec hears in this frame
MEMORY = 256  # spoken text tokens that a lane remembers for the repetition penalty


@dataclass(eq=False)
class _Ticket:
    """One session's wish for one frame, and what came of it."""

    session: "LaneSession"
    pcm: np.ndarray | None
    text: int
    audio: np.ndarray | None
    since: float
    frame: Frame | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.frame is not None or self.error is not None


class Lanes:
    """`count` lanes of one model on one device. Every method may be called from any thread.

    A step waits up to `patience` seconds for the other sessions of the batch; while a frame runs, the next one gathers.
    """

    def __init__(self, codec: Codec, programs: LMPrograms, tokenizer: Tokenizer, count: int, patience: float = 0.003) -> None:
        from clearline.generate.torch_frame import TorchFrame

        if not 1 <= count <= 1024:
            raise SessionError(f"a batch has 1..1024 lanes, got {count}")
        self.count = count
        self.cfg: LMConfig = programs.cfg
        self.frame_size = codec.frame_size
        self.tokenizer = tokenizer
        self._frame = TorchFrame(codec, programs, count)
        if self._frame.captures:
            self._frame.prepare()
        self._patience = patience
        self._device = threading.Lock()
        self._turn = threading.Condition()
        self._open: dict[int, LaneSession] = {}
        self._waiting: list[_Ticket] = []
        self._running = False

    @property
    def free(self) -> int:
        """Lanes that nobody has."""
        return self.count - len(self._open)

    @property
    def bytes(self) -> int:
        """Streaming state of all lanes, in bytes on the device."""
        return self._frame.bytes

    def session(self, config: GenerationConfig, details: bool = False) -> "LaneSession":
        """A new conversation in a free lane; SessionError when there is none. `details`: frames carry logits and hidden states."""
        with self._device, self._turn:
            lane = next((i for i in range(self.count) if i not in self._open), None)
            if lane is None:
                raise SessionError(f"all {self.count} lanes are taken")
            self._frame.begin(lane, config)
            self._open[lane] = LaneSession(self, lane, config, details)
            return self._open[lane]

    def leave(self, session: "LaneSession") -> None:
        """Give a lane back."""
        with self._turn:
            if self._open.get(session.lane) is session:
                del self._open[session.lane]
                self._frame.end(session.lane)
                self._turn.notify_all()

    def wait(self, ticket: _Ticket) -> Frame:
        """Put a frame into the next batch and wait for its result. Of those who wait, the first runs the batch for all."""
        with self._turn:
            self._waiting.append(ticket)
            self._turn.notify_all()
            while not ticket.done:
                if self._running:
                    self._turn.wait()
                    continue
                self._running = True
                while len(self._waiting) < len(self._open) and (left := ticket.since + self._patience - time.monotonic()) > 0:
                    self._turn.wait(left)
                batch, self._waiting = self._waiting, []
                self._turn.release()
                try:
                    self.step(batch)
                finally:
                    self._turn.acquire()
                    self._running = False
                    self._turn.notify_all()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.frame is not None
        return ticket.frame

    def step(self, batch: Sequence[_Ticket]) -> None:
        """One frame of every session in the batch. Afterwards every ticket is done: nobody waits for what never comes."""
        with self._device:
            try:
                self._step(batch)
            except BaseException as error:
                for ticket in batch:
                    if not ticket.done:
                        ticket.error = error if isinstance(error, Exception) else SessionError("the batch was interrupted")
                if not isinstance(error, Exception):
                    raise

    def _step(self, waiting: Sequence[_Ticket]) -> None:
        batch: list[_Ticket] = []
        for ticket in waiting:
            if self._open.get(ticket.session.lane) is not ticket.session:
                ticket.error = SessionError("this session was closed while its frame waited")
            elif any(other.session is ticket.session for other in batch):
                ticket.error = SessionError("a session was stepped by two threads at once")
            else:
                batch.append(ticket)
        cfg, count, device = self.cfg, self.count, self._frame
        active, hearing, first = (np.zeros(count, bool) for _ in range(3))
        pcm = np.zeros((count, self.frame_size), np.float32)
        given = np.full((count, max(1, cfg.user_streams)), HEARD)
        forced = np.full((count, 1 + cfg.dep_q), UNGENERATED)
        forces_audio = np.zeros(count, bool)
        for ticket in batch:
            lane = ticket.session.lane
            active[lane] = True
            first[lane] = ticket.session.frames == 0 and ticket.session.config.first_frame == "twice"
            if ticket.pcm is None:
                given[lane] = cfg.card
            else:
                pcm[lane], hearing[lane] = ticket.pcm, True
            forced[lane, 0] = ticket.text
            if ticket.audio is not None:
                forced[lane, 1:], forces_audio[lane] = ticket.audio, True
        device.encode(hearing, pcm, given)
        for ticket in batch:
            if ticket.session.frames == 0 and ticket.session.config.first_frame == "restart":
                device.restart_hearing(ticket.session.lane)
        if first.any():
            device.language(first, forced, forces_audio)
        computed = device.language(active, forced, forces_audio)
        device.decode(active)
        said, sound = device.fetch()
        for ticket in batch:
            lane = ticket.session.lane
            details = _host(computed, lane) if ticket.session.details else None
            try:
                ticket.frame = ticket.session.told(said[lane], sound[lane].copy(), details, forced[lane])
            except SessionError as error:
                ticket.error = error


class LaneSession:
    """One conversation in a lane: what `clearline.Session` is, for as long as it is open."""

    def __init__(self, lanes: Lanes, lane: int, config: GenerationConfig, details: bool) -> None:
        self.lane = lane
        self.config = config
        self.details = details
        self.frames = 0
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
        pcm = np.asarray(pcm)
        text, audio = checked_force(self._lanes.cfg, force_text, force_audio)
        if pcm.shape != (self._lanes.frame_size,):
            raise SessionError(f"a frame is {self._lanes.frame_size} samples, got an array of shape {list(pcm.shape)}")
        if not np.isfinite(pcm).all():
            raise AudioError("the frame contains NaN or infinite samples")
        return self._wait(pcm, text, audio)

    def end_input(self) -> Frame:
        """One frame that says the user's input is over, as `Session.end_input`."""
        return self._wait(None, UNGENERATED, None)

    def _wait(self, pcm: np.ndarray | None, text: int, audio: np.ndarray | None) -> Frame:
        if not self._open:
            raise SessionError("this session is closed")
        return self._lanes.wait(_Ticket(self, pcm, text, audio, time.monotonic()))

    def told(self, said: np.ndarray, sound: np.ndarray, details: dict[str, np.ndarray] | None, forced: np.ndarray) -> Frame:
        """What the device said of this lane's frame, as a frame; see `TorchFrame.width` for the order."""
        cfg = self._lanes.cfg
        self.frames += 1
        own, rest = said[2 : 3 + cfg.dep_q], said[3 + cfg.dep_q :]
        row, codes_in = rest[: 1 + cfg.dep_q], rest[1 + cfg.dep_q :]
        if not said[0]:
            raise SessionError(f"the logits at step {self.frames - 1} contain NaN or infinite values: damaged weights?")
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
        step = self.frames - 1 + (self.config.first_frame == "twice")
        return LMFrame(
            step, found["row"], found["hidden"], found["text_logits"], int(own[0]), audio_logits if speaks else None,
            own[1:].copy() if speaks else None, codes, np.stack(heads) if heads else None,
        )  # fmt: skip


def _host(tensors: "dict[str, Tensor]", lane: int) -> dict[str, np.ndarray]:
    """One lane's tensors on the host, in float types NumPy has."""
    from clearline.backends.torch_run import to_numpy

    return {name: to_numpy(tensor[lane]).copy() for name, tensor in tensors.items()}
