"""Looking inside a step: the output of every operation that has a weight, by that weight's name, on any backend.

The model is written against `Ops`; here its step runs against a wrapper of a backend's operations that keeps what each
returns. Nothing in the model or the backends knows of it.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from clearline.app import Model
from clearline.generate import Codec
from clearline.generate.codec import Kind
from clearline.model import Depformer, Moshi
from clearline.ops import Array, InputSpec, Ops, Program, State, StateSpec, StepFunction, Weight, Weights

_MARK = "layer "


class Probe:
    """A backend's operations, remembered: `seen` has each output under its module's name, in the order of the step.

    The name is the weight's without its last part: `transformer.layers.3.norm1`. What has no weight is not kept, but for
    attention, which is called `...self_attn.attention` after the projection before it.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._latest = ""
        self.seen: dict[str, Array] = {}

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._ops, name)
        if not callable(operation):
            return operation

        def call(*arguments: Any, **named: Any) -> Any:
            out = operation(*arguments, **named)
            weight = next((a for a in (*arguments, *named.values()) if isinstance(a, Weight)), None)
            if name == "ring_attend":
                self._keep(f"{self._latest.partition('.in_proj')[0]}.attention", out[0])
            elif weight is not None:
                self._latest = weight.name.rpartition(".")[0]
                # A bias belongs to the operation before it; a codebook may be asked twice, for its nearest row and its row.
                self._keep(self._latest, out, again=name != "bias")
            return out

        return call

    def _keep(self, name: str, value: Array, again: bool = False) -> None:
        if again and name in self.seen:
            name = f"{name} ({1 + sum(known == name or known.startswith(f'{name} (') for known in self.seen)})"
        self.seen[name] = value


def probed(step: StepFunction) -> StepFunction:
    """The same step, whose outputs also hold every layer's; one that is an output of the step itself is there once."""

    def run(ops: Ops, weights: Weights, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        probe = Probe(ops)
        out = step(cast(Ops, probe), weights, state, inputs)
        layers = {f"{_MARK}{name}": value for name, value in probe.seen.items()}
        return {name: value for name, value in out.items() if all(value is not layer for layer in layers.values())} | layers

    return run


def layers_of(outputs: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """The layers among a probed step's outputs, each flat."""
    return {
        f"{prefix}{name.removeprefix(_MARK)}": np.asarray(value).reshape(-1)
        for name, value in outputs.items()
        if name.startswith(_MARK)
    }


def probe_lm(model: Model, rows: np.ndarray, text: int, audio: np.ndarray | None) -> dict[str, np.ndarray]:
    """Every layer of the language model at the last of `rows` int [T, 1 + n_q], its depformer fed `text` and `audio` [dep_q]."""
    cfg, programs = model.config, model.programs
    moshi = Moshi(cfg)
    state = programs.temporal_state()
    for row in rows[:-1]:
        programs.temporal.run(state, {"row": row[None]})
    program = _compiled(model, moshi.step, moshi.state(1), moshi.inputs(1))
    out = program.run(state, {"row": rows[-1][None]})
    found = layers_of(out)
    if audio is None:
        return found
    depformer, depth = Depformer(cfg), programs.depth_state()
    depth["position"] = np.zeros(1, np.int64)
    for k, token in enumerate((text, *audio[:-1])):
        program = _compiled(model, depformer.step(k), depformer.state(1), depformer.inputs(1))
        step = program.run(depth, {"hidden": out["hidden"], "token": np.array([token])})
        found |= layers_of(step, f"codebook {k}: ")
    return found


def probe_encoder(codec: Codec, pcm: np.ndarray, codebooks: int, restart: bool = False) -> dict[str, np.ndarray]:
    """Every layer of the codec's encoder at the last frame of pcm [T, frame_size]; `restart`: it forgot the first frame."""
    heard = pcm[1:] if restart and len(pcm) > 1 else pcm
    return _last_step(codec, "encode", codebooks, [{"pcm": frame[None, :, None]} for frame in heard])


def probe_decoder(codec: Codec, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer of the codec's decoder at the last frame of codes [T, K]."""
    return _last_step(codec, "decode", codes.shape[1], [{"codes": frame[None, :, None]} for frame in codes])


def _last_step(codec: Codec, kind: Kind, codebooks: int, inputs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    part, state, plain = codec.part(kind, codebooks, "frame"), codec.state(kind, "frame"), codec.program(kind, codebooks, "frame")
    for frame in inputs[:-1]:
        plain.run(state, frame)
    program = codec.backend.compile(probed(part.step), codec.weights, list(part.state(1)), part.inputs(1))
    return layers_of(program.run(state, inputs[-1]))


def _compiled(model: Model, step: StepFunction, state: Any, inputs: Mapping[str, InputSpec]) -> Program:
    specs: list[StateSpec] = list(state)
    return model.backend.compile(probed(step), model.programs.weights, specs, inputs)
