"""Backends and codecs with one mistake in them: how the doctor tries a suspicion, and how the fault zoo makes one.

A suspicion is only worth something if making that mistake on purpose reproduces what was recorded.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from clearline.generate import Codec, CodecStream
from clearline.ops import Array, Backend, InputSpec, Leaf, Ops, Program, State, StateSpec, StepFunction, Weight, Weights

# An operation made wrong: it is called with the right operations first, then as the right one would be.
Wrong = Callable[..., Any]


class OddOps:
    """Operations of which some are replaced."""

    def __init__(self, ops: Any, wrong: Mapping[str, Wrong]) -> None:
        self._ops, self._wrong = ops, wrong

    def __getattr__(self, name: str) -> Any:
        if name in self._wrong:
            wrong, ops = self._wrong[name], self._ops
            return lambda *arguments, **named: wrong(ops, *arguments, **named)
        return getattr(self._ops, name)


class OddBackend:
    """A backend that computes some operations wrongly."""

    def __init__(self, backend: Backend, wrong: Mapping[str, Wrong]) -> None:
        self.name, self.device, self.dtype = backend.name, backend.device, backend.dtype
        self.quantised_budget = getattr(backend, "quantised_budget", 0.0)
        self._backend, self._wrong = backend, wrong

    def state(self, specs: Iterable[StateSpec]) -> dict[str, Leaf]:
        return self._backend.state(specs)

    def compile(
        self,
        step: StepFunction,
        weights: Mapping[str, Weight],
        state: Iterable[StateSpec],
        inputs: Mapping[str, InputSpec],
    ) -> Program:
        def odd(ops: Ops, w: Weights, s: State, given: Mapping[str, Array]) -> dict[str, Array]:
            return step(OddOps(ops, self._wrong), w, s, given)

        return self._backend.compile(odd, weights, state, inputs)


class OddCodec(Codec):
    """A codec whose streams misbehave: state forgotten every few frames, shared, or left over from something else."""

    def __init__(
        self, codec: Codec, backend: Backend, weights: Mapping[str, Weight] | None = None, *,
        forget_encoder: int = 0, forget_decoder: int = 0, shared: bool = False, left_over: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        super().__init__(codec.cfg, backend, codec.weights if weights is None else weights)
        self.forget_encoder, self.forget_decoder, self.shared, self.left_over = forget_encoder, forget_decoder, shared, left_over

    def stream(self, num_codebooks: int | None = None, window: Any = "frame") -> CodecStream:
        count = self.cfg.n_q if num_codebooks is None else num_codebooks
        return _OddStream(self, self.checked_codebooks(count), window)


class _OddStream(CodecStream):
    def __init__(self, codec: OddCodec, num_codebooks: int, window: Any) -> None:
        super().__init__(codec, num_codebooks, window)
        self._odd, self._kind = codec, window
        self._encoded = self._decoded = 0
        if codec.left_over is not None:
            for frame in codec.left_over:
                super().decode(super().encode(frame)[:num_codebooks])

    def encode(self, pcm: np.ndarray) -> np.ndarray:
        if self._odd.forget_encoder and self._encoded % self._odd.forget_encoder == 0:
            self._encoder_state = self._odd.state("encode", self._kind)
        self._encoded += 1
        codes = super().encode(pcm)
        if self._odd.shared:
            _lend(self._encoder_state, self._decoder_state)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        if self._odd.forget_decoder and self._decoded % self._odd.forget_decoder == 0:
            self._decoder_state = self._odd.state("decode", self._kind)
        self._decoded += 1
        pcm = super().decode(codes)
        if self._odd.shared:
            _lend(self._decoder_state, self._encoder_state)
        return pcm


def _lend(source: dict[str, Leaf], target: dict[str, Leaf]) -> None:
    """One set of transformer leaves for both halves: what one wrote, the other reads."""
    for name in source:
        other = name.replace("encoder_transformer", "decoder_transformer")
        if name == other:
            other = name.replace("decoder_transformer", "encoder_transformer")
        if (name == "position" or other != name) and other in target:
            target[other] = source[name]
