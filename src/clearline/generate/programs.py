"""The compiled steps of a language model, shared by all its sessions."""

from collections.abc import Mapping
from functools import cached_property

from clearline.config import LMConfig, Sampling
from clearline.generate.guess import WholeStep
from clearline.model import Depformer, Moshi
from clearline.ops import Backend, Leaf, Program, Weight, lazy


class LMPrograms:
    """One temporal program, and one depth program per generated codebook."""

    def __init__(self, cfg: LMConfig, backend: Backend, weights: Mapping[str, Weight]) -> None:
        self.cfg = cfg
        self.weights = weights
        self.backend = backend
        self._moshi = Moshi(cfg)
        self._depformer = Depformer(cfg) if cfg.dep_q else None
        self.temporal: Program = backend.compile(self._moshi.step, weights, self._moshi.state(1), self._moshi.inputs(1))
        self._whole: dict[tuple[Sampling, Sampling], Program] = {}
        self.depth: list[Program] = []
        if self._depformer is not None:
            state, inputs = list(self._depformer.state(1)), self._depformer.inputs(1)
            self.depth = [backend.compile(self._depformer.step(k), weights, state, inputs) for k in range(cfg.dep_q)]

    @cached_property
    def embedded(self) -> Program:
        """The temporal step from a summed embedding instead of a row; made at first use, for saved voice prompts."""
        moshi = self._moshi
        return self.backend.compile(moshi.embedded_step, self.weights, moshi.state(1), moshi.embedded_inputs(1))

    def whole(self, text: Sampling, audio: Sampling) -> Program | None:
        """Both transformers and their sampling in one program (see `generate.guess`), on a lazy backend."""
        if lazy(self.backend) is None:
            return None
        if (text, audio) not in self._whole:
            step = WholeStep(self.cfg, text, audio)
            self._whole[text, audio] = self.backend.compile(step.step, self.weights, step.state(), step.inputs())
        return self._whole[text, audio]

    def temporal_state(self) -> dict[str, Leaf]:
        return self.backend.state(self._moshi.state(1))

    def depth_state(self) -> dict[str, Leaf]:
        return {} if self._depformer is None else self.backend.state(self._depformer.state(1))
