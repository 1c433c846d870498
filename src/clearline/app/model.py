"""A loaded model: recordings run through it, sessions, batches."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np

from clearline.audio import read_audio, to_mono
from clearline.checkpoint import BITS, Checkpoint, Quantize, read_weights
from clearline.config import PRESETS, GenerationConfig, LMConfig, Sampling, preset
from clearline.config.checkpoint import WORST
from clearline.errors import ConfigError
from clearline.generate import Batch, Codec, Frame, Generator, LMPrograms, Session
from clearline.generate.feed import feed
from clearline.generate.lane import MEMORY, LaneSession
from clearline.generate.lanes import Lanes
from clearline.generate.persona import Persona, Prompt
from clearline.generate.persona import prompt as make_prompt
from clearline.generate.result import Result, boundaries, collect
from clearline.generate.text import Tokenizer
from clearline.ops import Backend, LazyProgram, Program, lazy
from clearline.trace import Recorder

# The settings of a run that say which token is read when, for the facts of a result.
ALIGNMENT = ("first_frame", "user_offset", "acoustic_delay", "pad_early_acoustic", "early_text")


def code_version() -> str:
    """The installed version of this package."""
    try:
        return version("clearline")
    except PackageNotFoundError:
        return "unknown (not installed)"


class Model:
    """A loaded checkpoint on one backend. Weights are shared by all sessions and never change."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        quantize: Quantize | None = None,
        codec: Backend | None = None,
        cache: str | None = None,
        weights: str | None = None,
        lm_only: bool = False,
    ) -> None:
        """`codec`: the backend of the codec, where it is not the language model's (which may run in half precision).
        `cache`: what the backend keeps keys and values in, where that is not its dtype. `weights` and `lm_only`: as in `load`."""
        self.checkpoint = checkpoint
        self.backend = backend
        self.quantize = quantize
        self.cache = cache
        self.weights = weights
        self._tokenizer: Tokenizer | None = None if lm_only else checkpoint.tokenizer()
        codec = codec or backend
        self._mimi = None if lm_only else Codec(checkpoint.mimi_config, codec, dict(checkpoint.mimi_weights()))
        # Reading one by one: of a checkpoint that is quantised here, only the quantised weights stay in memory.
        self._weights = read_weights(checkpoint.lm_weights(), 0 if quantize is None else BITS[quantize])
        self._worst: LMPrograms | None = None
        # By itself, so that what holds it does not hold the model.
        self._settings = partial(_generation, checkpoint.config.generation)
        self._singles: dict[bool, list[Lanes]] = {False: [], True: []}  # batches of one, without guidance and with it
        self._choosing = threading.Lock()
        self.programs = LMPrograms(checkpoint.config.lm, backend, self._weights)

    @property
    def mimi(self) -> Codec:
        if self._mimi is None:
            raise ConfigError("this model was loaded with lm_only, so it has no codec: `generator` is what it can do")
        return self._mimi

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ConfigError("this model was loaded with lm_only, so it has no tokenizer: `generator` is what it can do")
        return self._tokenizer

    @property
    def config(self) -> LMConfig:
        return self.checkpoint.config.lm

    @property
    def compiled(self) -> bool:
        """Whether frames go through torch.compile."""
        return bool(getattr(self.backend, "compiles", False))

    def generation(
        self,
        preset: str | GenerationConfig | None = None,
        *,
        seed: int | None = None,
        text: Sampling | None = None,
        audio: Sampling | None = None,
        guidance: float | None = None,
    ) -> GenerationConfig:
        """Generation settings: the checkpoint's own, or a named preset, with single values replaced."""
        return self._settings(preset, seed=seed, text=text, audio=audio, guidance=guidance)

    def session(
        self,
        preset: str | GenerationConfig | None = None,
        *,
        persona: Persona | None = None,
        on_prompt: Callable[[int, int], None] = lambda done, total: None,
        **changes: Any,
    ) -> Session | LaneSession:
        """A new conversation; settings as in `generation`. Use it in a `with` block and step it with 80 ms frames.

        persona: who a PersonaPlex is to be. Its system prompt is said before this returns, which takes a step for every
        80 ms of voice and every token of text; `on_prompt` is told how many are done, and of how many.
        """
        config = self.generation(preset, **changes)
        prompt = self._prompt(persona)
        session: Session | LaneSession
        if self.in_lanes(config):
            with self._choosing:
                session = self._lane_of_one(config).session(config, details=True)
        else:
            session = Session(self.mimi, self.programs, self.tokenizer, config, guide=self._guide(config))
        if prompt is not None:
            session.prompt(prompt, on_prompt)
        return session

    def prepare(
        self,
        preset: str | GenerationConfig | None = None,
        *,
        live: bool = False,
        on_part: Callable[[int, int], None] = lambda done, total: None,
        **changes: Any,
    ) -> None:
        """Compile and capture what a session of these settings needs, now and not when it is opened; nothing where neither is done.

        live: also what it needs only later, when its past is longer, so that no frame of a conversation is late.
        `on_part` is told how many parts are done, and of how many; with `compile` some take a minute.
        """
        config = self.generation(preset, **changes)
        if self.in_lanes(config):
            with self._choosing:
                self._lane_of_one(config, on_part)
        elif live and (backend := lazy(self.backend)) is not None and backend.compiled:
            programs = self._steps(config)
            for done, program in enumerate(programs):
                on_part(done, len(programs))
                program.prepare()

    def _steps(self, config: GenerationConfig) -> list[LazyProgram]:
        """The programs of a session on a lazy backend; with guidance its steps look at logits in between."""
        cfg, guide = self.config, self._guide(config)
        steps: list[Program | None] = [self.mimi.program("encode", max(1, cfg.user_streams), "frame")]
        if cfg.dep_q:
            steps.append(self.mimi.program("decode", cfg.dep_q, "frame"))
        if guide is None:
            steps.append(self.programs.whole(config.text, config.audio))
        else:
            steps += [step for lm in (self.programs, guide) for step in (lm.temporal, *lm.depth)]
        return cast(list[LazyProgram], steps)

    def _lane_of_one(self, config: GenerationConfig, on_part: Callable[[int, int], None] = lambda done, total: None) -> Lanes:
        """A batch of one whose lane is free; there are as many as there ever were sessions at once."""
        guided = config.guidance != 1
        singles = self._singles[guided]
        found = next((lanes for lanes in singles if lanes.free), None)
        if found is None:
            guide = self._lane_guide(guided)
            found = Lanes(self.mimi, self.programs, self.tokenizer, self._settings, 1, guide, on_part=on_part)
            singles.append(found)
        return found

    def _prompt(self, persona: Persona | None) -> Prompt | None:
        kind = self.checkpoint.config.model_type
        if kind != "personaplex":
            if persona is not None:
                raise ConfigError(f"a voice or a text prompt was given, which PersonaPlex models take; this one is a {kind}")
            return None
        return make_prompt(persona or Persona(), self.config, self.tokenizer, self.mimi)

    def batch(self, seeds: Sequence[int], preset: str | GenerationConfig | None = None, workers: int = 2, **changes: Any) -> Batch:
        """Independent sessions, one per seed, stepped together on a few threads; each as if it were alone."""
        if not isinstance(seeds, Iterable):
            raise ConfigError(f"seeds is {seeds!r}; give a list of whole numbers, one for each session")
        configs = [self.generation(preset, seed=seed, **changes) for seed in seeds]
        if configs and self.in_lanes(configs[0]):
            lanes = self.lanes(len(configs), guided=configs[0].guidance != 1)
            return Batch([lanes.session(config, details=True) for config in configs], len(configs))
        return Batch([self.session(config) for config in configs], workers)

    def lanes(
        self,
        count: int,
        *,
        guided: bool | None = None,
        persona: Persona | None = None,
        on_part: Callable[[int, int], None] = lambda done, total: None,
    ) -> Lanes:
        """A fixed batch of conversations on one device (torch backend), for many at once; open them with `lanes.session`.

        guided: whether they may have guidance (Hibiki), which takes two rows of the batch each; by default, whether the
        checkpoint's own settings have. persona: who a PersonaPlex is to be in every one of them. on_part: as in `prepare`.
        """
        if self.backend.name != "torch" or self.backend.device == "mps":
            where = f"{self.backend.name} on {self.backend.device}"
            raise ConfigError(f"batches run on the torch backend, on CUDA or the CPU (--backend torch); this model is on {where}")
        if guided is None:
            guided = self.generation().guidance != 1
        guide = self._lane_guide(guided)
        return Lanes(self.mimi, self.programs, self.tokenizer, self._settings, count, guide, self._prompt(persona), on_part)

    def _lane_guide(self, guided: bool) -> LMPrograms | None:
        if guided and self.checkpoint.config.conditioner is None:
            raise ConfigError("guidance needs a model with conditions, which this one has not")
        return self._under_worst() if guided else None

    def in_lanes(self, config: GenerationConfig) -> bool:
        """Whether a session is a batch of one: where whole frames are captured as graphs (CUDA), or compiled."""
        penalised = config.text.repetition_penalty != 1 and config.text.repetition_context > MEMORY
        if self.compiled and penalised:
            raise ConfigError(
                f"compiled frames remember {MEMORY} tokens for the repetition penalty: lower its context, or do not compile"
            )
        return (self.backend.device.startswith("cuda") or self.compiled) and not penalised

    def _guide(self, config: GenerationConfig) -> LMPrograms | None:
        return None if config.guidance == 1 or self.checkpoint.config.conditioner is None else self._under_worst()

    def _under_worst(self) -> LMPrograms:
        """The model under its worst condition, for guidance; made once. The two share every weight but the text embeddings."""
        if self._worst is None:
            table = self.checkpoint.lm_weights(WORST)["text_emb.weight"]
            self._worst = LMPrograms(self.config, self.backend, self._weights | {"text_emb.weight": table})
        return self._worst

    def generator(self, preset: str | GenerationConfig | None = None, **changes: Any) -> Generator:
        """The language model alone, codes in and tokens out, aligned as Kyutai's `LMGen` aligns them."""
        config = self.generation(preset, **changes)
        return Generator(self.programs, config, guide=self._guide(config))

    def run(
        self,
        pcm: np.ndarray,
        sample_rate: int,
        preset: str | GenerationConfig | None = None,
        *,
        tail: float | None = None,
        recorder: Recorder | None = None,
        on_frame: Callable[[Frame, int, int | None], None] | None = None,
        input_hash: str | None = None,
        persona: Persona | None = None,
        on_prompt: Callable[[int, int], None] = lambda done, total: None,
        **changes: Any,
    ) -> Result:
        """Run a whole recording: samples [n] or [n, channels], floats in -1..1 or signed integers, at any rate.

        tail: seconds of silence fed after the recording, so that the reply can be heard; None feeds it until the model
        has been quiet for 2 s, 15 s at most. on_frame is called with each frame, its number, and the number of frames
        when that is known. persona, on_prompt: as in `session`. Other keywords are those of `generation`.
        """
        config = self.generation(preset, **changes)
        mono = to_mono(pcm, sample_rate, self.mimi.sample_rate)
        if input_hash is None:
            input_hash = hashlib.sha256(np.ascontiguousarray(pcm).tobytes()).hexdigest()
        facts = self.facts(config, persona) | {"input": input_hash}
        if recorder is not None:
            recorder.begin(facts)
        size, rate = self.mimi.frame_size, self.mimi.sample_rate
        frames: list[Frame] = []
        with self.session(config, persona=persona, on_prompt=on_prompt) as session:
            started = time.perf_counter()
            for number, (samples, total) in enumerate(feed(mono, rate, size, tail, self.checkpoint.config, frames)):
                begun = time.perf_counter()
                frame = session.end_input() if samples is None else session.step(samples)
                taken = time.perf_counter() - begun
                frames.append(replace(frame, lm=None))  # an hour of a large model's logits is 10 GB
                if recorder is not None:
                    heard = np.zeros(size, np.float32) if samples is None else samples
                    recorder.add(boundaries(frame, heard) | {"seconds": np.float32(taken)})
                if on_frame is not None:
                    on_frame(frame, number, total)
        # A transcription lags behind by the model's delay, and by the silence before the recording.
        lead = self.checkpoint.config.stt_prefix_seconds + self.checkpoint.config.stt_delay_seconds
        return collect(frames, self.config, self.tokenizer, size, rate, facts, time.perf_counter() - started, lead)

    def run_file(
        self, path: str | Path, preset: str | GenerationConfig | None = None, max_seconds: float | None = None, **keywords: Any
    ) -> Result:
        """`run` on an audio file of any common format; the input hash is that of the file."""
        recording = read_audio(Path(path), max_seconds)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return self.run(recording.samples, recording.rate, preset, input_hash=digest, **keywords)

    def facts(self, config: GenerationConfig, persona: Persona | None = None) -> dict[str, Any]:
        """What a result depends on besides its input: hashes, seed, settings, backend, version."""
        prompted = self.checkpoint.config.model_type == "personaplex"
        return {
            **({"persona": (persona or Persona()).facts()} if prompted else {}),
            **self.checkpoint.hashes(),
            "seed": config.seed,
            "preset": preset_name(config),
            "text_sampling": vars(config.text),
            "audio_sampling": vars(config.audio),
            "guidance": config.guidance,
            "alignment": {name: getattr(config, name) for name in ALIGNMENT},
            "backend": self.backend.name,
            "device": self.backend.device,
            "dtype": self.backend.dtype,
            "quantize": self.quantize,
            "cache": self.cache or self.backend.dtype,
            "weights_dtype": self.weights or self.backend.dtype,
            "kernels": getattr(self.backend, "kernels", None),
            "compiled": self.compiled,
            "version": code_version(),
        }


def preset_name(config: GenerationConfig) -> str:
    """The preset whose settings these are, apart from the seed, or "custom"."""
    exact = [name for name, candidate in PRESETS.items() if candidate == config]
    near = [name for name, candidate in PRESETS.items() if replace(candidate, seed=config.seed) == config]
    return [*exact, *near, "custom"][0]


def _generation(default: GenerationConfig, chosen: str | GenerationConfig | None = None, **changes: Any) -> GenerationConfig:
    """The chosen settings, or the default, with single values replaced where they are not None."""
    if chosen is not None and not isinstance(chosen, str | GenerationConfig):
        raise ConfigError(f"settings are a preset's name or a GenerationConfig, not {chosen!r}")
    base = default if chosen is None else preset(chosen) if isinstance(chosen, str) else chosen
    return replace(base, **{name: value for name, value in changes.items() if value is not None})
