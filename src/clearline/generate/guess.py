"""A whole step in one program: where every evaluation costs a wait for the device, it draws the tokens itself.

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
from clearline.ops import Array, InputSpec, Leaf, Ops, Program, State, StateSpec, Weights


class DrawingOps(Protocol):
    """Operations that can draw a token too; a backend whose operations can has `draws`."""

    def draw(self, logits: Array, noise: Array | None, how: Sampling) -> Array:
        """[B, N] -> ids [B]: argmax of logits / T + noise over what top-k, top-p and min-p keep; greedily without noise."""


class WholeStep:
    """Temporal step and depformer: row and noise in, the temporal step's outputs and every token's logits out."""

    def __init__(self, cfg: LMConfig, text: Sampling, audio: Sampling) -> None:
        self.cfg = cfg
        self._how = (text, audio)
        self._moshi, self._depformer = Moshi(cfg), Depformer(cfg)

    def state(self) -> list[StateSpec]:
        return [*state_at("temporal", self._moshi, 1), *state_at("depth", self._depformer, 1)]

    def inputs(self) -> dict[str, InputSpec]:
        cfg = self.cfg
        given = {"row": InputSpec((1, cfg.streams), True), "forced": InputSpec((1, 1 + cfg.dep_q), True)}
        given["start"] = InputSpec((1,), True)
        if self._how[0].temperature > 0:
            given["text_noise"] = InputSpec((1, cfg.text_card_out))
        if self._how[1].temperature > 0:
            given["audio_noise"] = InputSpec((cfg.dep_q, cfg.card))
        return given

    def step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        cfg, depformer = self.cfg, self._depformer
        drawing = cast(DrawingOps, ops)
        outputs = self._moshi.step(ops, w, s.at("temporal"), {"row": inputs["row"]})
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
        return outputs | {"guess": ops.concat(tokens, 0), "audio_logits": ops.concat(logits, 0)}

    def _chosen(self, ops: Ops, stream: int, drawn: Array, inputs: Mapping[str, Array]) -> Array:
        forced = ops.reshape(ops.slice(inputs["forced"], 1, stream, stream + 1), (1,))
        return ops.where_equal(forced, UNGENERATED, drawn, forced)


def run_whole(
    program: Program, how: tuple[Sampling, Sampling], state: dict[str, Leaf], depth: dict[str, Leaf],
    row: np.ndarray, forced: np.ndarray, noise: Noise, frame: int, cfg: LMConfig,
) -> dict[str, np.ndarray]:  # fmt: skip
    """One step of both transformers; `forced` int64 [1 + dep_q], UNGENERATED where a token is to be drawn."""
    parts = {"temporal": state, "depth": depth}
    joint = {f"{part}.{path}": leaf for part, leaves in parts.items() for path, leaf in leaves.items()}
    given = {"row": row[None], "forced": forced[None], "start": np.zeros(1, np.int64)}
    if how[0].temperature > 0:
        given["text_noise"] = _gumbel(noise, frame, 0, cfg.text_card_out)[None]
    if how[1].temperature > 0:
        given["audio_noise"] = np.stack([_gumbel(noise, frame, 1 + k, cfg.card) for k in range(cfg.dep_q)])
    outputs = program.run(joint, given)
    for part, leaves in parts.items():
        leaves.update({path: joint[f"{part}.{path}"] for path in leaves})
    return outputs


def _gumbel(noise: Noise, frame: int, stream: int, count: int) -> np.ndarray:
    """argmax p / e is argmax log p - log e."""
    gumbel: np.ndarray = -np.log(noise.exponential(frame, stream, count, np.arange(count)))
    return gumbel
