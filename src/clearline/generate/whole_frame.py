"""A frame from sound to sound in one evaluation, on a backend that computes nothing before it is asked to.

Encoder, both transformers with their sampling (`clearline.generate.guess`) and decoder hand each other arrays that nobody has
computed yet; then all of them are computed at once. The tokens are guesses: where the host's sampler decides otherwise, the
depformer goes on from there and the decoder is run once more, from the state it had.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np

from clearline.generate.codec import CodecStream
from clearline.generate.generator import Generator, LMFrame, StepPlan
from clearline.generate.guess import HEARD
from clearline.ops import LazyBackend, LazyProgram


class WholeFrame:
    """The frames of one session; see `whole_frame`."""

    def __init__(self, stream: CodecStream, generator: Generator, backend: LazyBackend) -> None:
        self._stream, self._generator, self._backend = stream, generator, backend
        self._program = cast(LazyProgram, generator.whole)

    def step(
        self, pcm: np.ndarray, force_text: int | None = None, force_audio: Sequence[int] | np.ndarray | None = None
    ) -> tuple[np.ndarray, LMFrame, np.ndarray | None]:
        """The user's codes [K], the language model's step, and pcm [frame_size] where something is said."""
        plan, found = self._backend.alone(lambda: self._computed(pcm, force_text, force_audio))
        codes_in = found["heard"][0, :, 0]
        lm = self._generator.conclude(self._generator.hear(plan, codes_in), found)
        if "pcm" not in found or lm.codes is None:
            return codes_in, lm, None
        right = np.array_equal(lm.codes[1:], found["codes"][0, :, 0])
        return codes_in, lm, found["pcm"][0, :, 0] if right else self._stream.decode_instead(lm.codes[1:])

    def _computed(
        self, pcm: np.ndarray, force_text: int | None, force_audio: Sequence[int] | np.ndarray | None
    ) -> tuple[StepPlan, dict[str, np.ndarray]]:
        """The one evaluation: what was to be done, and everything that came of it."""
        stream, generator = self._stream, self._generator
        with generator.whole_state() as state:
            codes = stream.encode_later(pcm)
            plan = generator.plan(HEARD, force_text, force_audio)
            outputs = self._program.later(state, generator.whole_inputs(plan) | {"heard": codes}) | {"heard": codes}
            if generator.sayable(plan.ahead):
                outputs["pcm"] = stream.decode_later(outputs["codes"])
            return plan, self._backend.now(outputs, [state, *stream.states])


def whole_frame(stream: CodecStream, generator: Generator) -> WholeFrame | None:
    """One evaluation a frame; None where the backend computes at once, or guidance looks at logits in between."""
    backend = stream.lazy
    return None if backend is None or generator.whole is None else WholeFrame(stream, generator, backend)
