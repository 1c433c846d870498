"""The streaming transformer: x + attention(norm(x)), then x + feed-forward(norm(x)), layer after layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clearline.config.transformer import NORM_EPS, TransformerConfig
from clearline.model.layer import state_at, weights_at
from clearline.ops import Array, Ops, State, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class NormLayer:
    """RMS or layer normalisation over the last axis, as the config names it."""

    kind: str
    dim: int

    def weights(self) -> Iterator[WeightSpec]:
        if self.kind.startswith("rms"):
            yield WeightSpec("alpha", (1, 1, self.dim))
        else:
            yield WeightSpec("weight", (self.dim,))
            yield WeightSpec("bias", (self.dim,))

    def state(self, batch: int) -> Iterator[StateSpec]:
        return iter(())

    def __call__(self, ops: Ops, w: Weights, x: Array) -> Array:
        if self.kind.startswith("rms"):
            return ops.rms_norm(x, w["alpha"], NORM_EPS[self.kind])
        return ops.layer_norm(x, w["weight"], w["bias"], NORM_EPS[self.kind])


@dataclass(frozen=True)
class AttentionLayer:
    """Causal multi-head attention over a ring of `context` keys and values. x [B, T, dim] -> [B, T, dim]."""

    cfg: TransformerConfig

    def weights(self) -> Iterator[WeightSpec]:
        cfg = self.cfg
        for i in range(cfg.num_weights):
            yield WeightSpec(f"in_projs.{i}.weight", (cfg.dim + 2 * cfg.num_kv_heads * cfg.head_dim, cfg.dim))
            yield WeightSpec(f"out_projs.{i}.weight", (cfg.dim, cfg.dim))

    def state(self, batch: int) -> Iterator[StateSpec]:
        cfg = self.cfg
        # The past that a query can still see; the rows of its own frame come on top during the step.
        past = max(1, cfg.context - cfg.window_rows)
        yield StateSpec("ring", "ring", (batch, cfg.num_kv_heads, past, cfg.head_dim), cfg.frame_rows)

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array, index: int) -> Array:
        cfg = self.cfg
        kv_dim = cfg.num_kv_heads * cfg.head_dim
        projected = ops.linear(x, w[f"in_projs.{index}.weight"])
        if cfg.position in ("rope", "sin_rope", "rope_concat"):
            # Queries and keys turn alike: as heads side by side, in one operation.
            qk, v = ops.split(projected, (cfg.dim + kv_dim, kv_dim), -1)
            layout: Literal["interleaved", "halves"] = "halves" if cfg.position == "rope_concat" else "interleaved"
            turned = ops.rope(self._heads(ops, qk), position, cfg.max_period, layout)
            q, k = ops.split(turned, (cfg.num_heads, cfg.num_kv_heads), 2)
        else:
            q, k, v = ops.split(projected, (cfg.dim, kv_dim, kv_dim), -1)
            q, k = self._heads(ops, q), self._heads(ops, k)
        v = self._heads(ops, v)
        y, ring = ops.ring_attend(q, k, v, s.take("ring"), position, cfg.context, cfg.window_rows)
        s.put("ring", ring)
        return ops.linear(ops.reshape(y, x.shape), w[f"out_projs.{index}.weight"])

    def _heads(self, ops: Ops, x: Array) -> Array:
        batch, rows, dim = x.shape
        return ops.reshape(x, (batch, rows, dim // self.cfg.head_dim, self.cfg.head_dim))


@dataclass(frozen=True)
class TransformerLayer:
    """One pre-norm layer; the feed-forward is act(a) * b of a doubled projection when gated, else GELU."""

    cfg: TransformerConfig

    @property
    def attention(self) -> AttentionLayer:
        return AttentionLayer(self.cfg)

    @property
    def norm(self) -> NormLayer:
        return NormLayer(self.cfg.norm, self.cfg.dim)

    def weights(self) -> Iterator[WeightSpec]:
        cfg = self.cfg
        yield from weights_at("norm1", self.norm)
        yield from weights_at("self_attn", self.attention)
        yield from weights_at("norm2", self.norm)
        if cfg.gating is None:
            yield WeightSpec("linear1.weight", (cfg.ffn_hidden[0], cfg.dim))
            yield WeightSpec("linear2.weight", (cfg.dim, cfg.ffn_hidden[0]))
        else:
            for i, hidden in enumerate(cfg.ffn_hidden):
                yield WeightSpec(f"{self._gate(i)}.linear_in.weight", (2 * hidden, cfg.dim))
                yield WeightSpec(f"{self._gate(i)}.linear_out.weight", (cfg.dim, hidden))
        if cfg.layer_scale:
            yield WeightSpec("layer_scale_1.scale", (cfg.dim,))
            yield WeightSpec("layer_scale_2.scale", (cfg.dim,))

    def state(self, batch: int) -> Iterator[StateSpec]:
        yield from state_at("self_attn", self.attention, batch)

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array, index: int) -> Array:
        update = self.attention(ops, w.at("self_attn"), s.at("self_attn"), self.norm(ops, w.at("norm1"), x), position, index)
        x = x + self._scaled(ops, w, "layer_scale_1.scale", update)
        update = self._feed_forward(ops, w, self.norm(ops, w.at("norm2"), x), index)
        return x + self._scaled(ops, w, "layer_scale_2.scale", update)

    def _feed_forward(self, ops: Ops, w: Weights, x: Array, index: int) -> Array:
        cfg = self.cfg
        if cfg.gating is None:
            return ops.linear(ops.activation(ops.linear(x, w["linear1.weight"]), "gelu"), w["linear2.weight"])
        hidden = cfg.ffn_hidden[index]
        gate, up = ops.split(ops.linear(x, w[f"{self._gate(index)}.linear_in.weight"]), (hidden, hidden), -1)
        return ops.linear(ops.activation(gate, cfg.gating) * up, w[f"{self._gate(index)}.linear_out.weight"])

    def _gate(self, index: int) -> str:
        return f"gating.{index}" if self.cfg.steps else "gating"

    def _scaled(self, ops: Ops, w: Weights, name: str, x: Array) -> Array:
        return ops.scale(x, w[name]) if self.cfg.layer_scale else x


@dataclass(frozen=True)
class Transformer:
    """The stack. x [B, T, dim], position int64 [B] of its first row; `step` picks the weights of a depformer step."""

    cfg: TransformerConfig

    def weights(self) -> Iterator[WeightSpec]:
        for i in range(self.cfg.num_layers):
            yield from weights_at(f"layers.{i}", TransformerLayer(self.cfg))

    def state(self, batch: int) -> Iterator[StateSpec]:
        for i in range(self.cfg.num_layers):
            yield from state_at(f"layers.{i}", TransformerLayer(self.cfg), batch)

    def __call__(self, ops: Ops, w: Weights, s: State, x: Array, position: Array, step: int = 0) -> Array:
        cfg = self.cfg
        if cfg.position in ("sin", "sin_rope"):
            x = x + ops.sin_embedding(position, x.shape[1], cfg.dim, cfg.max_period)
        for i in range(cfg.num_layers):
            path = f"layers.{i}"
            x = TransformerLayer(cfg)(ops, w.at(path), s.at(path), x, position, cfg.weight_index(step))
        return x
