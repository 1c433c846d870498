"""Mimi as a codec: whole recordings, or a stream of 80 ms frames, through the same compiled step."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import numpy as np

from clearline.audio import checked_frame
from clearline.config import MimiConfig
from clearline.errors import AudioError, ConfigError, SessionError
from clearline.model import MimiDecoder, MimiEncoder
from clearline.ops import Backend, LazyBackend, LazyProgram, Leaf, Program, Weight, lazy

Kind = Literal["encode", "decode"]
Window = Literal["frame", "sliding", "rust"]


class Codec:
    """A Mimi codec bound to a backend. Codes of fewer codebooks are a prefix of the codes of more.

    `window` says what its transformers see once a recording is longer than their context (10 s in the released codec):
    "frame", what Kyutai's streaming leaves in its ring, is the default for streams and whole recordings alike, so that
    the two agree; "sliding" is what Kyutai's non-streaming call computes, which sees one row more in every other row; "rust"
    is rustymimi, which sees one row more than that in every row.
    """

    def __init__(self, cfg: MimiConfig, backend: Backend, weights: Mapping[str, Weight]) -> None:
        self.cfg = cfg
        self.backend = backend
        self.weights = weights
        self._programs: dict[tuple[Kind, int, Window], Program] = {}

    @property
    def sample_rate(self) -> int:
        return self.cfg.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return self.cfg.frame_size

    def program(self, kind: Kind, num_codebooks: int, window: Window) -> Program:
        """The compiled step, made at first use."""
        key = (kind, self.checked_codebooks(num_codebooks), window)
        if key not in self._programs:
            part = self.part(*key)
            self._programs[key] = self.backend.compile(part.step, self.weights, part.state(1), part.inputs(1))
        return self._programs[key]

    def state(self, kind: Kind, window: Window) -> dict[str, Leaf]:
        """Fresh streaming state; it does not depend on the number of codebooks."""
        return self.backend.state(self.part(kind, 1, window).state(1))

    def part(self, kind: Kind, num_codebooks: int, window: Window) -> MimiEncoder | MimiDecoder:
        """The half of the model that a program runs."""
        cfg = self.cfg
        if window != "frame" and cfg.transformer is not None:
            context = cfg.transformer.context + (window == "rust")
            cfg = replace(cfg, transformer=replace(cfg.transformer, sliding=True, context=context))
        return MimiEncoder(cfg, num_codebooks) if kind == "encode" else MimiDecoder(cfg, num_codebooks)

    def stream(self, num_codebooks: int | None = None, window: Window = "frame") -> "CodecStream":
        """Fresh encoder and decoder state; all codebooks unless told otherwise."""
        if window not in get_args(Window):
            raise ConfigError(f"window is {window!r}; known: {', '.join(get_args(Window))}")
        count = self.cfg.n_q if num_codebooks is None else num_codebooks
        return CodecStream(self, self.checked_codebooks(count), window)

    def encode(self, pcm: np.ndarray, num_codebooks: int | None = None, window: Window = "frame") -> np.ndarray:
        """A whole recording: pcm [n] at `sample_rate`, the last frame filled up with zeros -> codes int64 [K, frames]."""
        samples = np.asarray(pcm)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise AudioError(f"pcm must be a one-dimensional array of floats, got {samples.dtype} {list(samples.shape)}")
        stream = self.stream(num_codebooks, window)
        samples = np.pad(samples, (0, -len(samples) % self.frame_size))
        frames = [stream.encode(frame) for frame in samples.reshape(-1, self.frame_size)]
        return np.stack(frames, 1) if frames else np.zeros((stream.num_codebooks, 0), np.int64)

    def decode(self, codes: np.ndarray, window: Window = "frame") -> np.ndarray:
        """A whole recording: codes int [K, frames] -> pcm [frames * frame_size] in the backend's float type."""
        codes = np.asarray(codes)
        if codes.ndim != 2:
            raise SessionError(f"codes must have the shape [codebooks, frames], got {list(codes.shape)}")
        stream = self.stream(codes.shape[0], window)
        frames = [stream.decode(frame) for frame in codes.T]
        return np.concatenate(frames) if frames else np.zeros(0, np.float32)

    def checked_codebooks(self, num_codebooks: int) -> int:
        if not isinstance(num_codebooks, int | np.integer) or not 1 <= num_codebooks <= self.cfg.n_q:
            raise SessionError(f"{num_codebooks} codebooks were asked for; this codec has 1..{self.cfg.n_q}")
        return num_codebooks


class CodecStream:
    """Encoder and decoder state of one conversation; the two never share anything."""

    def __init__(self, codec: Codec, num_codebooks: int, window: Window) -> None:
        self._codec = codec
        self._window = window
        self.num_codebooks = num_codebooks
        self._encoder_state = codec.state("encode", window)
        self._decoder_state = codec.state("decode", window)
        self._before: dict[str, Leaf] = {}

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        """One frame: pcm [frame_size], nominally in -1..1 -> codes int64 [num_codebooks]."""
        return self._encode(pcm)["codes"][0, :, 0]

    def encode_latent(self, pcm: np.ndarray) -> np.ndarray:
        """One frame -> the latent [dimension] before quantisation."""
        return self._encode(pcm)["latent"][0, 0]

    def _encode(self, pcm: np.ndarray) -> dict[str, np.ndarray]:
        return self._encoder.run(self._encoder_state, self._heard(pcm))

    @property
    def _encoder(self) -> Program:
        return self._codec.program("encode", self.num_codebooks, self._window)

    def _heard(self, pcm: np.ndarray) -> dict[str, np.ndarray]:
        return {"pcm": checked_frame(pcm, self._codec.frame_size)[None, :, None]}

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """One frame: codes int [k], k at most the codec's codebooks -> pcm [frame_size]."""
        codes = self._checked_codes(codes)
        program = self._codec.program("decode", codes.shape[0], self._window)
        return program.run(self._decoder_state, {"codes": codes[None, :, None]})["pcm"][0, :, 0]

    def _checked_codes(self, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        bins = self._codec.cfg.bins
        if codes.ndim != 1 or codes.dtype.kind not in "iu":
            raise SessionError(f"codes of a frame must be a one-dimensional array of whole numbers, got {list(codes.shape)}")
        if codes.size and not (codes.min() >= 0 and codes.max() < bins):
            raise SessionError(f"codes must lie in 0..{bins - 1}, got {codes.min()}..{codes.max()}")
        return codes

    def restart_encoder(self) -> None:
        """Forget everything heard so far."""
        self._encoder_state = self._codec.state("encode", self._window)

    # -- on a backend that computes nothing before it is asked to (see clearline.generate.whole_frame) --------------

    @property
    def lazy(self) -> LazyBackend | None:
        """The backend, where frames may be left to be computed later."""
        return lazy(self._codec.backend) if hasattr(self._encoder, "later") else None

    @property
    def states(self) -> list[dict[str, Leaf]]:
        """What `encode_later` and `decode_later` leave to be computed beside what they return."""
        return [self._encoder_state, self._decoder_state]

    def encode_later(self, pcm: np.ndarray) -> Any:
        """As `encode`: codes [1, num_codebooks, 1]."""
        return cast(LazyProgram, self._encoder).later(self._encoder_state, self._heard(pcm))["codes"]

    def decode_later(self, codes: Any) -> Any:
        """As `decode`: codes [1, k, 1], which nobody has looked at -> pcm [1, frame_size, 1]."""
        self._before = dict(self._decoder_state)
        program = cast(LazyProgram, self._codec.program("decode", codes.shape[1], self._window))
        return program.later(self._decoder_state, {"codes": codes})["pcm"]

    def decode_instead(self, codes: np.ndarray) -> np.ndarray:
        """The frame that was decoded last, of these codes [k] instead. Rings need nothing: its rows are written over."""
        self._decoder_state.update(self._before)
        return self.decode(codes)
