"""A whole step in one program: where every evaluation costs a wait for the device, the device draws the tokens itself.

What it draws is a guess, made in the device's arithmetic. The host's sampler looks at the same logits with the same noise and
has the last word: where it decides otherwise, which takes a tie within a rounding, the depformer goes on from there step by
step. So the tokens are those of `clearline.generate.sampler`, whatever the device thinks.
"""

from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np

from clearline.config import LMConfig, Sampling
from clearline.config.lm import UNGENERATED
from clearline.generate.noise import Noise
from clearline.model import Depformer, Moshi
from clearline.model.layer import state_at
from clearline.ops import Array, InputSpec, Ops, State, StateSpec, Weights

HEARD = -3  # in a row, in place of a code that the codec hears in this frame


class DrawingOps(Protocol):
    """Operations that can draw a token too: those of a lazy backend."""

    def draw(self, logits: Array, noise: Array | None, how: Sampling) -> Array:
        """[B, N] -> ids [B]: argmax of logits / T + noise over what top-k, top-p and min-p keep; greedily without noise."""


class WholeStep:
    """Temporal step and depformer: row and noise in, the temporal step's outputs and every token's logits out.

    Its neighbours may leave it codes that are not computed yet, and take some: `heard` [1, K, 1] are the user's, read where
    the row says HEARD; the output `codes` [1, dep_q, 1] is `said` [1, dep_q] with this step's tokens where it is UNGENERATED.
    """

    def __init__(self, cfg: LMConfig, text: Sampling, audio: Sampling) -> None:
        self.cfg = cfg
        self._how = (text, audio)
        self._moshi, self._depformer = Moshi(cfg), Depformer(cfg) if cfg.dep_q else None

    def state(self) -> list[StateSpec]:
        depth = [] if self._depformer is None else state_at("depth", self._depformer, 1)
        return [*state_at("temporal", self._moshi, 1), *depth]

    def inputs(self) -> dict[str, InputSpec]:
        cfg = self.cfg
        given = {"row": InputSpec((1, cfg.streams), True), "heard": InputSpec((1, max(1, cfg.user_streams), 1), True)}
        if self._depformer is None:
            return given
        given |= {"start": InputSpec((1,), True), "said": InputSpec((1, cfg.dep_q), True)}
        given["forced"] = InputSpec((1, 1 + cfg.dep_q), True)
        if self._how[0].temperature > 0:
            given["text_noise"] = InputSpec((1, cfg.text_card_out), wide=True)
        if self._how[1].temperature > 0:
            given["audio_noise"] = InputSpec((cfg.dep_q, cfg.card), wide=True)
        return given

    def step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._moshi.step(ops, w, s.at("temporal"), {"row": self._row(ops, inputs)})
        if self._depformer is None:
            return outputs
        return outputs | self._depth(self._depformer, ops, w, s, inputs, outputs)

    def _depth(
        self, depformer: Depformer, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Every token, drawn or forced (`guess` [1 + dep_q]), and what the depformer says of each audio token."""
        cfg, drawing = self.cfg, cast(DrawingOps, ops)
        previous = self._chosen(ops, 0, drawing.draw(outputs["text_logits"], inputs.get("text_noise"), self._how[0]), inputs)
        names = [spec.path for spec in depformer.state(1)]
        leaves = {name: s.take(f"depth.{name}") for name in names} | {"position": inputs["start"]}
        tokens, logits = [previous], []
        for k in range(cfg.dep_q):
            view = State(dict(leaves))
            given = {"hidden": outputs["hidden"], "token": previous}
            logits.append(depformer.step(k)(ops, w, view, given)["logits"])
            leaves |= view.new
            noise = ops.slice(inputs["audio_noise"], 0, k, k + 1) if "audio_noise" in inputs else None
            previous = self._chosen(ops, 1 + k, drawing.draw(logits[k], noise, self._how[1]), inputs)
            tokens.append(previous)
        for name in names:
            s.put(f"depth.{name}", leaves[name])
        guess = ops.concat(tokens, 0)
        audio = ops.reshape(ops.slice(guess, 0, 1, 1 + cfg.dep_q), (1, cfg.dep_q))
        codes = ops.reshape(ops.where_equal(inputs["said"], UNGENERATED, audio, inputs["said"]), (1, cfg.dep_q, 1))
        return {"guess": guess, "audio_logits": ops.concat(logits, 0), "codes": codes}

    def _row(self, ops: Ops, inputs: Mapping[str, Array]) -> Array:
        """The row with the codes that are heard now."""
        cfg, row = self.cfg, inputs["row"]
        if not cfg.user_streams:
            return row
        own, user = ops.split(row, (cfg.streams - cfg.user_streams, cfg.user_streams), 1)
        heard = ops.reshape(inputs["heard"], (1, cfg.user_streams))
        return ops.concat((own, ops.where_equal(user, HEARD, heard, user)), 1)

    def _chosen(self, ops: Ops, stream: int, drawn: Array, inputs: Mapping[str, Array]) -> Array:
        forced = ops.reshape(ops.slice(inputs["forced"], 1, stream, stream + 1), (1,))
        return ops.where_equal(forced, UNGENERATED, drawn, forced)


def whole_inputs(
    how: tuple[Sampling, Sampling], row: np.ndarray, forced: np.ndarray, noise: Noise, frame: int, cfg: LMConfig
) -> dict[str, np.ndarray]:
    """What `WholeStep` takes, with nothing left to its neighbours; `forced` int64 [1 + dep_q], UNGENERATED where to draw."""
    given = {"row": row[None], "heard": np.zeros((1, max(1, cfg.user_streams), 1), np.int64)}
    if not cfg.dep_q:
        return given
    given |= {"forced": forced[None], "said": forced[None, 1:], "start": np.zeros(1, np.int64)}
    if how[0].temperature > 0:
        given["text_noise"] = _gumbel(noise, frame, 0, cfg.text_card_out)[None]
    if how[1].temperature > 0:
        given["audio_noise"] = np.stack([_gumbel(noise, frame, 1 + k, cfg.card) for k in range(cfg.dep_q)])
    return given


def _gumbel(noise: Noise, frame: int, stream: int, count: int) -> np.ndarray:
    """argmax p / e is argmax log p - log e."""
    gumbel: np.ndarray = -np.log(noise.exponential(frame, stream, count, np.arange(count)))
    return gumbel
