"""The known ways in which the language model is computed wrongly, each as compiled programs that do it."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from clearline.app import Model
from clearline.backends import get_backend
from clearline.config import LMConfig
from clearline.generate import LMPrograms
from clearline.lab.doctor.codec_mistakes import halved_rope
from clearline.lab.doctor.odd import OddBackend, Wrong
from clearline.ops import Backend, Leaf, Program, Ring, Weight
from clearline.ops.weight import quantise


@dataclass(frozen=True)
class LMMistake:
    """One mistake. late: it shows only once the attention window is full. Each change is optional."""

    name: str
    what: str
    remedy: str
    config: Callable[[LMConfig], LMConfig] | None = None
    weights: Callable[[Mapping[str, Weight], LMConfig], Mapping[str, Weight]] | None = None
    wrong: Mapping[str, Wrong] | None = None
    temporal: Callable[[Program], Program] | None = None
    late: bool = False

    def made(self, model: Model) -> Model:
        """The same model, computed with this mistake."""
        cfg, weights = model.config, model.programs.weights
        # A backend of its own: a backend keeps what it made of a weight for as long as it lives.
        backend: Backend = get_backend(model.backend.name)
        if self.weights is not None:
            weights = self.weights(weights, cfg)
        if self.wrong is not None:
            backend = OddBackend(backend, self.wrong)
        programs = LMPrograms(cfg if self.config is None else self.config(cfg), backend, weights)
        if self.temporal is not None:
            programs.temporal = self.temporal(programs.temporal)
        out = copy.copy(model)
        out.programs = programs
        return out


def lm_mistakes(cfg: LMConfig) -> Iterator[LMMistake]:
    """Every known mistake that this configuration can have, likeliest first."""
    main = cfg.transformer
    if main.position in ("rope", "rope_concat"):
        yield LMMistake(
            "rope-layout",
            f"RoPE pairs {'split halves' if main.position == 'rope' else 'neighbours'}, "
            f"but the weights were trained with {'neighbouring pairs' if main.position == 'rope' else 'split halves'}",
            "use the interleaved form (rope_i in Candle, traditional=True in MLX); only Hibiki-Zero has split halves",
            wrong={"rope": halved_rope},
        )
    yield LMMistake(
        "ring-wrap",
        f"the key/value cache keeps the wrong slots once it is full (after {main.context - 1} frames)",
        "write position p into slot p mod capacity, and let attention see the last `context` positions whatever slot they are in",
        temporal=lambda program: StuckRing(program),
        late=True,
    )
    if cfg.dep_q > 1 and cfg.depformer is not None and cfg.depformer.transformer.num_weights > 1:
        sets = cfg.depformer.transformer.num_weights
        for by, what in ((1, "the next step"), (-1, "the step before"), (0, "step 0")):
            yield LMMistake(
                "depformer-step",
                f"the depformer uses the weights of {what}",
                "step k of the depformer has weights of its own (in_projs.k, gating.k); count from 0",
                weights=lambda weights, _, by=by: depformer_shifted(weights, sets, by),  # type: ignore[misc]
            )
    for bits, group in ((8, 64), (4, 64), (4, 32), (8, 32)):
        yield LMMistake(
            "quantisation-group",
            f"{bits}-bit groups of {group} weights are read as groups of {group // 2}",
            "MLX's q4 has groups of 32 and its q8 groups of 64: take the size from the shapes of the scales",
            weights=lambda weights, _, bits=bits, group=group: misread_groups(weights, bits, group),  # type: ignore[misc]
        )
    for stream, by in (("text", 1), ("text", -1), ("audio", 1), ("audio", -1)):
        yield LMMistake(
            f"{stream}-vocabulary-offset",
            f"the {stream} tokens are looked up {'one row too far' if by > 0 else 'one row too early'} in the embedding table",
            f"the {stream} vocabulary starts at 0 and its initial token is the last row",
            weights=lambda weights, _, stream=stream, by=by: rolled_embeddings(weights, stream, by),  # type: ignore[misc]
        )
    for heads in (main.num_heads * 2, main.num_heads // 2):
        if heads and main.dim % heads == 0 and (main.dim // heads) % 2 == 0 and main.num_kv_heads == main.num_heads:
            yield LMMistake(
                "wrong-heads",
                f"attention is cut into {heads} heads, the weights were trained with {main.num_heads}",
                f"set the number of heads to {main.num_heads}: no tensor's shape shows a wrong one",
                config=lambda cfg, heads=heads: replace(  # type: ignore[misc]
                    cfg, transformer=replace(cfg.transformer, num_heads=heads, num_kv_heads=heads)
                ),
            )
    for period in (1_000.0, 100_000.0, 500_000.0, 10_000.0):
        if period != main.max_period:
            yield LMMistake(
                "rope-period",
                f"RoPE's period is {period:g}, the weights were trained with {main.max_period:g}",
                f"set max_period to {main.max_period:g}",
                config=lambda cfg, period=period: replace(cfg, transformer=replace(cfg.transformer, max_period=period)),  # type: ignore[misc]
            )


class StuckRing:
    """A temporal program whose cache, once full, writes every new row into its last slot."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, state: dict[str, Leaf], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rings = [leaf for leaf in state.values() if isinstance(leaf, Ring)]
        position = int(np.asarray(state["position"]).reshape(-1)[0])
        due = [position % ring.capacity for ring in rings]
        full = [position >= ring.capacity for ring in rings]
        kept = [
            (ring.k[:, :, slot].copy(), ring.v[:, :, slot].copy()) if wrapped and slot < ring.slots else None
            for ring, slot, wrapped in zip(rings, due, full, strict=True)
        ]
        out = self._program.run(state, inputs)
        for ring, slot, old in zip(rings, due, kept, strict=True):
            if old is not None:
                new = ring.k[:, :, slot].copy(), ring.v[:, :, slot].copy()
                ring.k[:, :, slot], ring.v[:, :, slot] = old
                ring.k[:, :, ring.capacity - 1], ring.v[:, :, ring.capacity - 1] = new
        return out


def depformer_shifted(weights: Mapping[str, Weight], sets: int, by: int) -> dict[str, Weight]:
    """Depformer step k with the transformer's weights of step k + by (by 0: of step 0), cyclically."""

    def source(name: str) -> str:
        def moved(match: re.Match[str]) -> str:
            index = 0 if by == 0 else (int(match[2]) + by) % sets
            return f"{match[1]}{index}{match[3]}"

        return re.sub(r"(\.(?:in_projs|out_projs|gating)\.)(\d+)(\.)", moved, name)

    return {
        name: replace(weights[source(name)], name=f"{name}, of {source(name)}") if name.startswith("depformer.layers.") else weight
        for name, weight in weights.items()
    }


def misread_groups(weights: Mapping[str, Weight], bits: int, group: int) -> dict[str, Weight]:
    """Linears quantised in groups of `group` whose scales are then taken one after the other for groups of half that size."""
    out = dict(weights)
    for name, weight in weights.items():
        if len(weight.shape) == 2 and weight.shape[1] % group == 0 and "emb" not in name and not weight.bits:
            small = quantise(weight, bits, group)
            assert small.scale is not None
            # Row after row of scales, each used for half the weights it was made for: the second half of a tensor's
            # rows runs out of scales and begins again.
            scales = np.resize(small.scale.reshape(-1), weight.shape[0] * weight.shape[1] * 2 // group)
            wrong = replace(small, scale=scales.reshape(weight.shape[0], -1), group=group // 2)
            out[name] = Weight(f"{name}, misread", wrong.dense(np.float32))
    return out


def rolled_embeddings(weights: Mapping[str, Weight], stream: str, by: int) -> dict[str, Weight]:
    """The temporal transformer's embedding tables of one kind of stream, rolled so that token i finds row i + by."""
    pattern = re.compile(r"text_emb\.weight" if stream == "text" else r"emb\.\d+\.weight")
    out: dict[str, Weight] = {}
    for name, weight in weights.items():
        rolled = pattern.fullmatch(name) is not None
        out[name] = Weight(f"{name}, rolled", np.roll(weight.dense(np.float32), -by, 0)) if rolled else weight
    return out
