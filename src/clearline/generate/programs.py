"""The compiled steps of a language model, shared by all its sessions."""

from collections.abc import Mapping

from clearline.config import LMConfig
from clearline.model import Depformer, Moshi
from clearline.ops import Backend, Leaf, Program, Weight


class LMPrograms:
    """One temporal program, and one depth program per generated codebook."""

    def __init__(self, cfg: LMConfig, backend: Backend, weights: Mapping[str, Weight]) -> None:
        self.cfg = cfg
        self.weights = weights
        self._backend = backend
        self._moshi = Moshi(cfg)
        self._depformer = Depformer(cfg) if cfg.dep_q else None
        self.temporal: Program = backend.compile(self._moshi.step, weights, self._moshi.state(1), self._moshi.inputs(1))
        self.depth: list[Program] = []
        if self._depformer is not None:
            state, inputs = list(self._depformer.state(1)), self._depformer.inputs(1)
            self.depth = [backend.compile(self._depformer.step(k), weights, state, inputs) for k in range(cfg.dep_q)]

    def temporal_state(self) -> dict[str, Leaf]:
        return self._backend.state(self._moshi.state(1))

    def depth_state(self) -> dict[str, Leaf]:
        return {} if self._depformer is None else self._backend.state(self._depformer.state(1))
