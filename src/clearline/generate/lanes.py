"""Sessions that share a device: a fixed batch of lanes, stepped together; who is ready takes part, the others wait untouched."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import numpy as np

from clearline.config import GenerationConfig, LMConfig
from clearline.config.lm import UNGENERATED
from clearline.errors import SessionError
from clearline.generate.codec import Codec
from clearline.generate.guess import HEARD
from clearline.generate.lane import LaneSession, Ticket
from clearline.generate.memory import check_lanes, session_bytes, state_bytes
from clearline.generate.persona import Prompt
from clearline.generate.programs import LMPrograms
from clearline.generate.text import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


class Lanes:
    """`count` lanes of one model on one device. Every method may be called from any thread.

    A step waits up to `patience` seconds for the other sessions of the batch; while a frame runs, the next one gathers.
    """

    def __init__(
        self,
        codec: Codec,
        programs: LMPrograms,
        tokenizer: Tokenizer,
        settings: Callable[..., GenerationConfig],
        count: int,
        guide: LMPrograms | None = None,
        prompt: Prompt | None = None,
        on_part: Callable[[int, int], None] = lambda done, total: None,
        patience: float = 0.003,
    ) -> None:
        """`settings`: as `Model.generation`. `guide`: the model under the condition that guidance leads away from, where lanes
        shall have guidance. `prompt`: what conversations begin with that bring no prompt of their own. `on_part` is told how
        many parts of a frame are compiled or captured, and of how many, where that is done."""
        from clearline.generate.torch_frame import TorchFrame

        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= 1024:
            raise SessionError(f"a batch has a whole number of lanes in 1..1024, got {count!r}")
        backend, each = programs.backend, lane_bytes(codec, programs, guided=guide is not None)
        check_lanes(count, each, backend.device, backend.dtype, getattr(backend, "free_bytes", lambda: None)())
        self.count = int(count)
        self._settings = settings
        self.cfg: LMConfig = programs.cfg
        self.frame_size = codec.frame_size
        self.tokenizer = tokenizer
        self._frame = TorchFrame(codec, programs, count, guide)
        self._prompt = prompt
        if self._frame.prepares:
            self._frame.prepare(on_part)
        self._patience = patience
        self.last_seconds = self.step_seconds = 0.0  # what a frame of the batch took, and a running mean of the last few
        self._device = threading.Lock()
        self._turn = threading.Condition()
        self._lent: dict[int, ReferenceType[LaneSession]] = {}
        self._waiting: list[Ticket] = []
        self._running = False

    @property
    def free(self) -> int:
        """Lanes that nobody has."""
        return self.count - len(self._open())

    def _open(self) -> dict[int, LaneSession]:
        """The session of each lane that is taken. Of one that was dropped without being closed the lane is free again."""
        with self._turn:
            found = {lane: session for lane, lent in self._lent.items() if (session := lent()) is not None}
            for lane in self._lent.keys() - found.keys():
                del self._lent[lane]
                self._frame.end(lane)
        return found

    @property
    def bytes(self) -> int:
        """Streaming state of all lanes, in bytes on the device."""
        return self._frame.bytes

    def session(
        self,
        preset: str | GenerationConfig | None = None,
        *,
        details: bool = False,
        prompt: Prompt | None = None,
        on_prompt: Callable[[int, int], None] = lambda done, total: None,
        **changes: Any,
    ) -> LaneSession:
        """A new conversation in a free lane, settings as in `Model.generation`; SessionError when there is none.

        details: frames carry logits and hidden states (`frame.lm`), which are copied for that. A prompt is said before this
        returns, beside whatever the other conversations do.
        """
        config = self._settings(preset, **changes)
        with self._device, self._turn:
            taken = self._open()
            lane = next((i for i in range(self.count) if i not in taken), None)
            if lane is None:
                raise SessionError(f"all {self.count} lanes are taken: close a session, or make more lanes")
            self._frame.begin(lane, config)
            session = LaneSession(self, lane, config, details)
            self._lent[lane] = ref(session)
        prompt = prompt or self._prompt
        if prompt is not None:
            session.prompt(prompt, on_prompt)
        return session

    def leave(self, session: LaneSession) -> None:
        """Give a lane back."""
        with self._turn:
            if self._open().get(session.lane) is session:
                del self._lent[session.lane]
                self._frame.end(session.lane)
                self._turn.notify_all()

    def replay(self, session: LaneSession, embedding: np.ndarray) -> None:
        """One step of one session from a summed embedding [dim]."""
        with self._device:
            self._frame.replay(session.lane, embedding)

    def jump(self, session: LaneSession, tokens: np.ndarray, step: int) -> None:
        """See `TorchFrame.jump`."""
        with self._device:
            self._frame.jump(session.lane, tokens, step)

    def wait(self, ticket: Ticket) -> None:
        """Put a frame into the next batch and wait until it is done. Of those who wait, the first runs the batch for all."""
        with self._turn:
            self._waiting.append(ticket)
            self._turn.notify_all()
            while not ticket.done:
                if self._running:
                    self._turn.wait()
                    continue
                self._running = True
                try:
                    self._run(ticket)
                finally:
                    self._running = False
                    self._turn.notify_all()

    def _run(self, ticket: Ticket) -> None:
        """Gather a batch around a ticket, and step it; who is interrupted before it has begun takes the ticket back."""
        try:
            while len(self._waiting) < len(self._open()) and (left := ticket.since + self._patience - time.monotonic()) > 0:
                self._turn.wait(left)
        except BaseException:
            self._waiting.remove(ticket)
            raise
        batch, self._waiting = self._waiting, []
        self._turn.release()
        try:
            self.step(batch)
        finally:
            self._turn.acquire()

    def step(self, batch: Sequence[Ticket]) -> None:
        """One frame of every session in the batch. Afterwards every ticket is done: nobody waits for what never comes."""
        with self._device:
            started = time.monotonic()
            try:
                self._step(batch)
                self.last_seconds = time.monotonic() - started
                self.step_seconds += (self.last_seconds - self.step_seconds) / 8 if self.step_seconds else self.last_seconds
            except BaseException as error:
                for ticket in batch:
                    if not ticket.done:
                        ticket.fail(error if isinstance(error, Exception) else SessionError("the batch was interrupted"))
                if not isinstance(error, Exception):
                    raise

    def _step(self, waiting: Sequence[Ticket]) -> None:
        batch: list[Ticket] = []
        taken = self._open()
        for ticket in waiting:
            if taken.get(ticket.session.lane) is not ticket.session:
                ticket.fail(SessionError("this session was closed while its frame waited"))
            elif any(other.session is ticket.session for other in batch):
                ticket.fail(SessionError("a session was stepped by two threads at once"))
            else:
                batch.append(ticket)
        cfg, count, device = self.cfg, self.count, self._frame
        active, hearing, twice, prompting, forces_audio = (np.zeros(count, bool) for _ in range(5))
        pcm = np.zeros((count, self.frame_size), np.float32)
        given = np.full((count, max(1, cfg.user_streams)), HEARD)
        forced = np.full((count, 1 + cfg.dep_q), UNGENERATED)
        for ticket in batch:
            session = ticket.session
            lane = session.lane
            active[lane], prompting[lane] = True, ticket.said is not None
            twice[lane] = session.fresh and ticket.said is None and session.config.first_frame == "twice"
            if ticket.codes is not None:
                given[lane] = ticket.codes
            elif ticket.pcm is not None:
                pcm[lane], hearing[lane] = ticket.pcm, True
            forced[lane], forces_audio[lane] = session.forced(ticket)
            session.steps += 1 + int(twice[lane])
        device.encode(hearing, pcm, given)
        for ticket in batch:
            if ticket.session.fresh and ticket.said is None and ticket.session.config.first_frame == "restart":
                device.restart_hearing(ticket.session.lane)
        if twice.any():
            device.language(twice, forced, forces_audio)
        computed = device.language(active, forced, forces_audio, prompting, any(ticket.session.details for ticket in batch))
        device.decode(active & ~prompting)
        said, sound = device.fetch()
        for ticket in batch:
            lane = ticket.session.lane
            details = _host(computed, lane) if ticket.session.details else None
            try:
                if ticket.said is None:
                    ticket.frame = ticket.session.told(said[lane], sound[lane].copy(), details, forced[lane])
                ticket.done = True
            except SessionError as error:
                ticket.fail(error)


def lane_bytes(codec: Codec, programs: LMPrograms, guided: bool) -> int:
    """What the past of one lane takes: keys and values of the language model, and the state of the codec's two halves."""
    cfg = programs.cfg
    halves = codec.part("encode", max(1, cfg.user_streams), "frame"), codec.part("decode", max(1, cfg.dep_q), "frame")
    heard = sum(state_bytes(half.state(1), codec.backend.dtype) for half in halves)
    return (1 + guided) * session_bytes(cfg, programs.backend.dtype) + heard


def _host(tensors: "dict[str, Tensor]", lane: int) -> dict[str, np.ndarray]:
    """One lane's tensors on the host, in float types NumPy has."""
    from clearline.backends.torch_run import to_numpy

    return {name: to_numpy(tensor[lane]).copy() for name, tensor in tensors.items()}
