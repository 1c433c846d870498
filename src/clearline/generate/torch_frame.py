"""A whole frame of a fixed batch of lanes on one device: encode, alignment, both transformers with their sampling, decode.

Nothing in here waits for the device. Every tensor that one frame leaves for the next, or one part for another, stays where it
is, so that on CUDA each part is captured as one graph. It says what `generate.delays`, `generate.sampler` and
`generate.generator` say, lane by lane; their tests hold the two together.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from clearline.backends.torch_graph import Graphs, clear, donate
from clearline.backends.torch_philox import LaneNoise, as_bits
from clearline.backends.torch_ring import TorchRing
from clearline.backends.torch_run import Torch
from clearline.backends.torch_sample import LaneSampling, sample
from clearline.config import GenerationConfig
from clearline.config.lm import UNGENERATED
from clearline.errors import ConfigError
from clearline.generate.codec import Codec
from clearline.generate.delays import effective_delays
from clearline.generate.guess import HEARD
from clearline.generate.lane import MEMORY
from clearline.generate.programs import LMPrograms
from clearline.generate.torch_model import TorchModel
from clearline.ops import Weights

_MOST_DELAY = 64


class TorchFrame:
    """The tensors and the step of `lanes` lanes. `begin` makes a lane anew; a lane is changed by frames it is active in."""

    def __init__(self, codec: Codec, programs: LMPrograms, lanes: int, guide: LMPrograms | None = None) -> None:
        cfg = programs.cfg
        assert isinstance(programs.backend, Torch) and isinstance(codec.backend, Torch)
        self.cfg, self.lanes = cfg, lanes
        self._codec, self._backend, self._codec_backend = codec, programs.backend, codec.backend
        self._codec_weights = Weights(codec.weights)
        self._encoder = codec.part("encode", max(1, cfg.user_streams), "frame")
        self._decoder = codec.part("decode", max(1, cfg.dep_q), "frame")
        with self._backend.running():
            self._model = TorchModel(programs, lanes, guide)
            self._allocate()
        self._graphs = Graphs(self._backend.weights.device, self.active, self._backend.compiles)
        self._steps = np.zeros(lanes, np.int64)  # the clock of each lane, kept here too: graphs depend on the longest past

    def _allocate(self) -> None:
        cfg, lanes, device = self.cfg, self.lanes, self._backend.weights.device
        self._hearing = self._codec_backend.lanes(self._encoder.state(lanes), full=True)
        self._speaking = self._codec_backend.lanes(self._decoder.state(lanes), full=True)
        self._rings = self._model.rings

        def whole(*shape: int, value: int = 0) -> Tensor:
            return torch.full((lanes, *shape), value, dtype=torch.int64, device=device)

        # What the host writes before a frame.
        self.active = torch.zeros(lanes, dtype=torch.bool, device=device)
        self._pcm_in = torch.zeros(lanes, self._codec.frame_size, 1, dtype=self._codec_backend.weights.dtype, device=device)
        self._given = whole(max(1, cfg.user_streams), value=HEARD)
        self._forced = whole(1 + cfg.dep_q, value=UNGENERATED)
        self._forces_audio, self._prompting = (torch.zeros(lanes, dtype=torch.bool, device=device) for _ in range(2))
        # What a frame leaves: the codes heard, tokens, and sound.
        self._codes_in = whole(max(1, cfg.user_streams))
        self._said = whole(self.width)
        self._pcm_out = torch.zeros(lanes, self._codec.frame_size, dtype=torch.float32, device=device)
        # Settings of each lane.
        self._key, self._delays, self._max_delay, self._offset = whole(2), whole(cfg.streams), whole(), whole()
        self._pad_early = torch.zeros(lanes, dtype=torch.bool, device=device)
        self._text_sampling, self._audio_sampling = (LaneSampling(lanes, device) for _ in range(2))
        # Alignment: see `generate.delays.TokenGrid`. More columns than a lane needs change nothing.
        self._columns = max(cfg.max_delay, _MOST_DELAY) + 3
        self._step, self._grid = whole(), whole(cfg.streams, self._columns, value=UNGENERATED)
        self._spoken = whole(MEMORY, value=-1)
        self._initial = torch.tensor(cfg.initial_row, device=device)
        self._lane = torch.arange(lanes, device=device)[:, None]
        self._noise = LaneNoise(lanes, [cfg.text_card_out, *[cfg.card] * cfg.dep_q], device)

    @property
    def width(self) -> int:
        """Whole numbers a lane's frame comes to: sound logits?, rows complete?, text, audio, the aligned row, the user's codes."""
        return 3 + self.cfg.dep_q + (1 + self.cfg.dep_q) + max(1, self.cfg.user_streams)

    @property
    def bytes(self) -> int:
        """Bytes of streaming state, on the device."""
        states = (*self._model.states, self._hearing, self._speaking)
        return sum(leaf.bytes if isinstance(leaf, TorchRing) else leaf.nbytes for state in states for leaf in state.values())

    @property
    def prepares(self) -> bool:
        """Whether the first frames take their time: they are compiled or captured."""
        return self._graphs.prepares

    def prepare(self, on_part: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Run every part once, for every length of the past, with nobody active: what is compiled or captured is so now.

        `on_part` is told how many parts are done, and of how many.
        """
        lengths = self._rings[0].lengths
        parts = [("encode", self._encode), *([("decode", self._decode)] if self.cfg.dep_q else [])]
        total = len(parts) + len(lengths)
        with self._backend.running():
            self.active.zero_()
            for done, (name, part) in enumerate(parts):
                on_part(done, total)
                self._graphs.run(name, part)
            for done, end in enumerate(lengths, len(parts)):
                on_part(done, total)
                slots = [ring.use(end) for ring in self._rings]
                self._graphs.run(("language", *slots[:1]), self._language)

    def begin(self, lane: int, config: GenerationConfig) -> None:
        """Give a lane to a new session."""
        delays = effective_delays(self.cfg, config.acoustic_delay)
        if config.text.repetition_penalty != 1 and config.text.repetition_context > MEMORY:
            raise ConfigError(f"in a batch the repetition context is at most {MEMORY}, got {config.text.repetition_context}")
        if config.guidance != 1 and not self._model.guided:
            raise ConfigError(f"guidance {config.guidance:g} needs two rows a conversation: model.lanes(count, guided=True)")
        with self._backend.running():
            for state in (self._hearing, self._speaking):
                clear(state, lane)
            self._model.begin(lane, config.guidance)
            self._key[lane] = torch.tensor([as_bits(config.seed), 0])
            self._delays[lane] = torch.tensor(delays)
            self._max_delay[lane], self._offset[lane] = max(delays), config.user_offset
            self._pad_early[lane] = config.pad_early_acoustic
            self._text_sampling.set(lane, config.text)
            self._audio_sampling.set(lane, config.audio)
            self._step[lane], self._grid[lane], self._spoken[lane] = 0, UNGENERATED, -1
        self._steps[lane] = 0

    def end(self, lane: int) -> None:
        """A lane that nobody has makes nobody else's past longer."""
        self._steps[lane] = 0

    def replay(self, lane: int, embedding: np.ndarray) -> None:
        """One step of one lane from a summed embedding [dim] in place of a row (a voice prompt); nothing comes of it but state."""
        with self._backend.running():
            self._activate(np.arange(self.lanes) == lane)
            self._past_grows(np.arange(self.lanes) == lane)
            self._model.replay(self._backend.tensor(embedding[None], ids=False), self.active)

    def jump(self, lane: int, grid: np.ndarray, step: int) -> None:
        """A new lane goes to `step`, with the tokens [streams, 1 + n] of that step and the n after it, UNGENERATED if not known."""
        with self._backend.running():
            columns = (step + np.arange(grid.shape[1])) % self._columns
            self._grid[lane][:, torch.from_numpy(columns)] = torch.from_numpy(grid).to(self._grid.device)
            self._step[lane] = step

    def pretend(self, position: int) -> None:
        """Put every lane at a position, with zeros for a past, and something to feed there (for measuring)."""
        with self._backend.running():
            self._model.pretend(position)
            self._step.fill_(position)
            self._grid.clamp_(min=0)
        self._steps[:] = position

    # -- what the host does ---------------------------------------------------------------------

    def encode(self, hearing: np.ndarray, pcm: np.ndarray, given: np.ndarray) -> None:
        """Lanes that are `hearing` (bool [B]) hear pcm [B, frame_size]; others take their codes from given [B, n_user]."""
        with self._backend.running():
            upload(self._pcm_in, np.ascontiguousarray(pcm, np.float32)[..., None])
            upload(self._given, np.ascontiguousarray(given, np.int64))
            self._activate(hearing)
            self._graphs.run("encode", self._encode)

    def restart_hearing(self, lane: int) -> None:
        """The lane's encoder forgets everything it heard."""
        with self._backend.running():
            clear(self._hearing, lane)

    def language(
        self,
        active: np.ndarray,
        forced: np.ndarray,
        forces_audio: np.ndarray,
        prompting: np.ndarray | None = None,
        details: bool = False,
    ) -> dict[str, Tensor]:
        """One step of the active lanes on the codes at hand; forced [B, 1 + dep_q], -2 where nothing is; see `Generator.step`.

        Lanes that are `prompting` (bool [B]; None: none is) do not remember what they say, as far as the repetition penalty goes.
        With `details`, returns the row that was fed and everything the model computed, by the names of its outputs, and
        audio_logits [B, dep_q, card]; on the device, for good.
        """
        with self._backend.running():
            upload(self._forced, np.ascontiguousarray(forced, np.int64))
            upload(self._forces_audio, np.ascontiguousarray(forces_audio))
            upload(self._prompting, np.zeros(self.lanes, bool) if prompting is None else prompting)
            self._activate(active)
            slots = self._past_grows(active)
            found: dict[str, Tensor] = self._graphs.run(("language", *slots[:1]), self._language)
            # The decoder's graph computes in the memory that these lie in.
            return {name: x.clone() for name, x in found.items()} if details else {}

    def decode(self, active: np.ndarray) -> None:
        """The active lanes say the row that is complete; nothing where there is none."""
        if self.cfg.dep_q == 0:
            return
        with self._backend.running():
            self._activate(active)
            self._graphs.run("decode", self._decode)

    def fetch(self) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the device: whole numbers int64 [B, width] and pcm float32 [B, frame_size]."""
        with self._backend.running():
            said, pcm = self._said.cpu().numpy(), self._pcm_out.cpu().numpy()
        return said, pcm

    def _past_grows(self, active: np.ndarray) -> list[int]:
        """The active lanes take a step: the slots that the longest past needs, of every ring."""
        self._steps += active
        longest = int(self._steps.max())
        return [ring.use(longest) for ring in self._rings]

    def _activate(self, active: np.ndarray) -> None:
        upload(self.active, np.ascontiguousarray(active, bool))

    # -- what the device does -------------------------------------------------------------------

    def _encode(self) -> None:
        outputs, new = self._codec_backend.call(self._encoder.step, self._codec_weights, self._hearing, {"pcm": self._pcm_in})
        donate(self._hearing, new, self.active)
        self._codes_in.copy_(torch.where(self._given == HEARD, outputs["codes"][:, :, 0], self._given))

    def _language(self) -> dict[str, Tensor]:
        cfg = self.cfg
        drawn = self._graphs.beside(lambda: self._noise.draw(self._key, self._step))
        row = self._row()
        outputs, hidden = self._model.temporal(row.clamp(min=-1), self.active)
        drawn()
        noise = self._noise.streams
        text, sound = sample(outputs["text_logits"], self._text_sampling, noise[0], cfg.text_padding, self._spoken)
        text = torch.where(self._forced[:, 0] == UNGENERATED, text, self._forced[:, 0])
        self._remember(text)
        audio, logits, sound_audio = self._depth_steps(hidden, text, noise[1:])
        sound = sound & sound_audio & (row != UNGENERATED).all(1)
        self._advance(torch.cat([text[:, None], audio], 1), sound)
        return outputs | {"row": row, "audio_logits": logits}

    def _row(self) -> Tensor:
        """Write the user's codes and read the row to feed, int64 [B, streams]."""
        cfg = self.cfg
        step = self._step[:, None]
        user = torch.arange(cfg.dep_q + 1, cfg.streams, device=step.device)
        columns = (step + self._delays[:, user] + self._offset[:, None]).remainder(self._columns)
        self._grid[self._lane, user, columns] = self._codes_in[:, : cfg.user_streams]
        here = self._grid.gather(2, step.remainder(self._columns)[..., None].expand(-1, cfg.streams, 1))[..., 0]
        return torch.where(step <= self._delays, self._initial, here)

    def _depth_steps(self, hidden: Tensor, text: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The depformer with its sampling: audio tokens [B, dep_q], logits [B, dep_q, card], whether these are numbers [B]."""
        cfg = self.cfg
        if not cfg.dep_q:
            nothing = text.new_zeros(self.lanes, 0)
            return nothing, hidden.new_zeros(self.lanes, 0, cfg.card), torch.ones_like(self.active)
        early = self._pad_early[:, None] & (self._step[:, None] < self._delays[:, 1 : cfg.dep_q + 1]) & ~self._forces_audio[:, None]
        forced = torch.where(early, cfg.card, self._forced[:, 1:])
        previous, sound = text, torch.ones_like(self.active)
        tokens: list[Tensor] = []
        logits: list[Tensor] = []
        for k in range(cfg.dep_q):
            logits.append(self._model.depth(k, hidden, previous))
            token, good = sample(logits[k], self._audio_sampling, noise[k])
            previous = torch.where(forced[:, k] == UNGENERATED, token, forced[:, k])
            sound = sound & good
            tokens.append(previous)
        return torch.stack(tokens, 1), torch.stack(logits, 1), sound

    def _remember(self, text: Tensor) -> None:
        cfg = self.cfg
        word = (text != cfg.text_padding) & (text != cfg.text_end_padding) & (text != cfg.text_card)
        spoken = word & self.active & ~self._prompting
        moved = torch.cat([self._spoken[:, 1:], text[:, None]], 1)
        self._spoken.copy_(torch.where(spoken[:, None], moved, self._spoken))

    def _advance(self, own: Tensor, sound: Tensor) -> None:
        """Write what was sampled, read the newest complete row, and go on."""
        streams = torch.arange(own.shape[1], device=own.device)
        step = self._step + 1
        self._grid[self._lane, streams, step.remainder(self._columns)[:, None]] = own
        columns = (step[:, None] - self._max_delay[:, None] + self._delays[:, : own.shape[1]]).remainder(self._columns)
        aligned = self._grid[self._lane, streams, columns]
        complete = step > self._max_delay
        self._said.copy_(torch.cat([sound[:, None], complete[:, None], own, aligned, self._codes_in], 1))
        self._step.copy_(torch.where(self.active, step, self._step))

    def _decode(self) -> None:
        cfg = self.cfg
        codes = self._said[:, 4 + cfg.dep_q : 4 + 2 * cfg.dep_q]
        sayable = self.active & (self._said[:, 1] == 1) & ((codes >= 0) & (codes < cfg.card)).all(1)
        given = {"codes": codes.clamp(0, self._codec.cfg.bins - 1)[:, :, None]}
        outputs, new = self._codec_backend.call(self._decoder.step, self._codec_weights, self._speaking, given)
        donate(self._speaking, new, sayable)
        self._pcm_out.copy_(outputs["pcm"][:, :, 0])


def upload(tensor: Tensor, array: np.ndarray) -> None:
    """Copy an array to a tensor's place, without waiting for the device where that can be done."""
    source = torch.from_numpy(array)
    if tensor.device.type == "cuda":
        # PyTorch keeps a pinned copy until the device has read it; of other memory it waits for that.
        tensor.copy_(source.pin_memory(), non_blocking=True)
    else:
        tensor.copy_(source)
