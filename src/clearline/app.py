"""The public API: load a model, run a recording through it, or hold a session frame by frame."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clearline.audio import read_audio, to_mono
from clearline.backends import DEFAULT_BACKEND, get_backend
from clearline.checkpoint import Checkpoint, is_linear, model_path, open_checkpoint, read_mimi
from clearline.checkpoint.convert import cached
from clearline.config import PRESETS, GenerationConfig, LMConfig, Sampling, preset
from clearline.config.checkpoint import WORST
from clearline.errors import CheckpointError, ConfigError
from clearline.generate import Batch, Codec, Frame, Generator, LMPrograms, Session
from clearline.generate.feed import feed
from clearline.generate.result import Result, boundaries, collect
from clearline.generate.text import Tokenizer
from clearline.ops import Backend, Weight
from clearline.ops.weight import quantise
from clearline.trace import Recorder

Quantize = Literal["q8", "q4"]
_BITS: dict[str, int] = {"q8": 8, "q4": 4}

# Larger language models are quantised once, into CLEARLINE_HOME, and mapped from there ever after.
_CACHED_FROM_BYTES = 500_000_000

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

    def __init__(self, checkpoint: Checkpoint, backend: Backend, quantize: Quantize | None = None) -> None:
        self.checkpoint = checkpoint
        self.backend = backend
        self.quantize = quantize
        self.tokenizer: Tokenizer = checkpoint.tokenizer()
        self.mimi = Codec(checkpoint.mimi_config, backend, dict(checkpoint.mimi_weights()))
        # Reading one by one: of a checkpoint that is quantised here, only the quantised weights stay in memory.
        self._weights = _loaded(checkpoint.lm_weights(), 0 if quantize is None else _BITS[quantize])
        self._worst: LMPrograms | None = None
        self.programs = LMPrograms(checkpoint.config.lm, backend, self._weights)

    @property
    def config(self) -> LMConfig:
        return self.checkpoint.config.lm

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
        base = _base_generation(preset, self.checkpoint.config.generation)
        changes = {"seed": seed, "text": text, "audio": audio, "guidance": guidance}
        return replace(base, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def session(self, preset: str | GenerationConfig | None = None, **changes: Any) -> Session:
        """A new conversation; settings as in `generation`. Use it in a `with` block and step it with 80 ms frames."""
        config = self.generation(preset, **changes)
        return Session(self.mimi, self.programs, self.tokenizer, config, guide=self._guide(config))

    def batch(self, seeds: Sequence[int], preset: str | GenerationConfig | None = None, workers: int = 2, **changes: Any) -> Batch:
        """Independent sessions, one per seed, stepped together on a few threads; each as if it were alone."""
        return Batch([self.session(preset, seed=seed, **changes) for seed in seeds], workers)

    def _guide(self, config: GenerationConfig) -> LMPrograms | None:
        """The model under its worst condition, for guidance; made once. The two share every weight but the text embeddings."""
        if config.guidance == 1 or self.checkpoint.config.conditioner is None:
            return None
        if self._worst is None:
            # Another name, because backends keep what they made of a weight under it.
            table = replace(self.checkpoint.lm_weights(WORST)["text_emb.weight"], name=f"text_emb.weight, {WORST}")
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
        **changes: Any,
    ) -> Result:
        """Run a whole recording: samples [n] or [n, channels], floats in -1..1 or signed integers, at any rate.

        tail: seconds of silence fed after the recording, so that the reply can be heard; None feeds it until the model
        has been quiet for 2 s, 15 s at most. on_frame is called with each frame, its number, and the number of frames
        when that is known. Other keywords are those of `generation`.
        """
        config = self.generation(preset, **changes)
        started = time.perf_counter()
        mono = to_mono(pcm, sample_rate, self.mimi.sample_rate)
        if input_hash is None:
            input_hash = hashlib.sha256(np.ascontiguousarray(pcm).tobytes()).hexdigest()
        facts = self.facts(config) | {"input": input_hash}
        if recorder is not None:
            recorder.begin(facts)
        size, rate = self.mimi.frame_size, self.mimi.sample_rate
        frames: list[Frame] = []
        with self.session(config) as session:
            for number, (samples, total) in enumerate(feed(mono, rate, size, tail, self.checkpoint.config, frames)):
                frame = session.end_input() if samples is None else session.step(samples)
                frames.append(replace(frame, lm=None))  # an hour of a large model's logits is 10 GB
                if recorder is not None:
                    heard = np.zeros(size, np.float32) if samples is None else samples
                    recorder.add(boundaries(frame, heard))
                if on_frame is not None:
                    on_frame(frame, number, total)
        return collect(frames, self.config, self.tokenizer, size, rate, facts, time.perf_counter() - started)

    def run_file(
        self, path: str | Path, preset: str | GenerationConfig | None = None, max_seconds: float | None = None, **keywords: Any
    ) -> Result:
        """`run` on an audio file of any common format; the input hash is that of the file."""
        recording = read_audio(Path(path), max_seconds)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return self.run(recording.samples, recording.rate, preset, input_hash=digest, **keywords)

    def facts(self, config: GenerationConfig) -> dict[str, Any]:
        """What a result depends on besides its input: hashes, seed, settings, backend, version."""
        return {
            **self.checkpoint.hashes(),
            "seed": config.seed,
            "preset": preset_name(config),
            "text_sampling": vars(config.text),
            "audio_sampling": vars(config.audio),
            "alignment": {name: getattr(config, name) for name in ALIGNMENT},
            "backend": self.backend.name,
            "quantize": self.quantize,
            "version": code_version(),
        }


def load(
    path_or_name: str | Path = "nano",
    *,
    backend: str = DEFAULT_BACKEND,
    quantize: Quantize | None = None,
    threads: int | None = None,
) -> Model:
    """Load a model: "nano", which is part of this package, or a folder in Kyutai's format.

    backend "onnx" (default, float32) or "numpy64" (the slow float64 reference); quantize "q8" or "q4" rounds the
    language model's linear weights in groups of 32. Raises ClearlineError with what is wrong with the folder.
    """
    if quantize is not None and quantize not in _BITS:
        raise ConfigError(f"quantize is {quantize!r}; known: {', '.join(_BITS)}, or None for none")
    checkpoint = open_checkpoint(model_folder(path_or_name))
    if quantize is not None and checkpoint.lm_bytes >= _CACHED_FROM_BYTES:
        checkpoint = cached(checkpoint, quantize)
    return Model(checkpoint, _backend(backend, threads), quantize)


def load_codec(path_or_name: str | Path = "nano", *, backend: str = DEFAULT_BACKEND, threads: int | None = None) -> Codec:
    """Load only the Mimi codec: of a model folder, of "nano", or a .safetensors file of the released codec's shape."""
    chosen = model_folder(path_or_name)
    if chosen.is_file():
        config, weights = read_mimi(chosen)
    else:
        checkpoint = open_checkpoint(chosen)
        config, weights = checkpoint.mimi_config, checkpoint.mimi_weights()
    return Codec(config, _backend(backend, threads), dict(weights))


def model_folder(path_or_name: str | Path) -> Path:
    """Where a model lies: "nano", a path, or `owner/model` on the Hugging Face hub, downloaded when it is not here."""
    return nano_folder() if str(path_or_name) == "nano" else model_path(str(path_or_name))


def _backend(name: str, threads: int | None) -> Backend:
    if threads is not None and not 1 <= threads <= 1024:
        raise ConfigError(f"threads is {threads}; it must lie in 1..1024")
    return get_backend(name, threads)


def nano_folder() -> Path:
    """Where the embedded model lies."""
    folder = Path(str(resources.files("clearline") / "nano"))
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"this installation lacks the embedded model: {folder} is not there")
    return folder


def preset_name(config: GenerationConfig) -> str:
    """The preset whose settings these are, apart from the seed, or "custom"."""
    exact = [name for name, candidate in PRESETS.items() if candidate == config]
    near = [name for name, candidate in PRESETS.items() if replace(candidate, seed=config.seed) == config]
    return [*exact, *near, "custom"][0]


def _base_generation(chosen: str | GenerationConfig | None, default: GenerationConfig) -> GenerationConfig:
    if chosen is None:
        return default
    return preset(chosen) if isinstance(chosen, str) else chosen


def _loaded(weights: Mapping[str, Weight], bits: int) -> dict[str, Weight]:
    """Every weight read; with `bits`, linears and output heads rounded, embeddings and norms as they are."""
    out: dict[str, Weight] = {}
    for name, weight in weights.items():
        chosen = bits and not weight.bits and is_linear(name) and weight.shape[1] % 32 == 0
        out[name] = quantise(weight, bits) if chosen else weight
    return out
