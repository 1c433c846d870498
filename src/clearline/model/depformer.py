"""The depformer: within one frame, it writes the audio codebooks one after the other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from clearline.config import DepformerConfig, LMConfig
from clearline.model.embedding import Embedding
from clearline.model.layer import state_at, weights_at
from clearline.model.transformer import NormLayer, Transformer
from clearline.ops import Array, InputSpec, Ops, State, StateSpec, StepFunction, Weights, WeightSpec


@dataclass(frozen=True)
class Depformer:
    """Step k: logits_k = norm_k(transformer(hidden W_in^T + embedding(previous token))) W_k^T.

    Step 0 embeds the text token, step k the audio token of codebook k-1. Inputs: hidden [B, dim], token int64 [B];
    output: logits [B, card]. Its position restarts at 0 in every frame, so keys of the last frame are never visible.
    """

    cfg: LMConfig

    @property
    def dep(self) -> DepformerConfig:
        assert self.cfg.depformer is not None
        return self.cfg.depformer

    def inputs(self, batch: int) -> dict[str, InputSpec]:
        return {"hidden": InputSpec((batch, self.cfg.transformer.dim)), "token": InputSpec((batch,), ids=True)}

    def weights(self) -> Iterator[WeightSpec]:
        cfg, dep = self.cfg, self.dep
        for i in range(dep.transformer.num_weights if dep.multi_linear else 1):
            yield WeightSpec(f"depformer_in.{i}.weight", (dep.transformer.dim, cfg.transformer.dim))
        for k in range(cfg.dep_q):
            yield from weights_at(*self._token_embedding(k))
        yield from weights_at("depformer", Transformer(dep.transformer))
        for k in range(cfg.dep_q):
            if dep.norm is not None:
                yield from weights_at(f"depformer_norms.{k}", NormLayer(dep.norm, dep.transformer.dim))
            yield WeightSpec(f"linears.{k}.weight", (cfg.card, dep.transformer.dim))
            if cfg.bias_proj:
                yield WeightSpec(f"linears.{k}.bias", (cfg.card,))

    def state(self, batch: int) -> Iterator[StateSpec]:
        yield StateSpec("position", "position", (batch,))
        yield from state_at("depformer", Transformer(self.dep.transformer), batch)

    def step(self, k: int) -> StepFunction:
        """The function that writes codebook k."""
        return partial(self._step, k)

    def _step(self, k: int, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        cfg, dep = self.cfg, self.dep
        batch = inputs["hidden"].shape[0]
        position = s.take("position")
        index = dep.transformer.weight_index(k) if dep.multi_linear else 0
        path, embedding = self._token_embedding(k)
        x = ops.linear(inputs["hidden"], w[f"depformer_in.{index}.weight"]) + embedding(ops, w.at(path), inputs["token"])
        x = ops.reshape(x, (batch, 1, dep.transformer.dim))
        x = Transformer(dep.transformer)(ops, w.at("depformer"), s.at("depformer"), x, position, k)
        if dep.norm is not None:
            x = NormLayer(dep.norm, dep.transformer.dim)(ops, w.at(f"depformer_norms.{k}"), x)
        s.put("position", position + 1)
        x = ops.reshape(x, (batch, dep.transformer.dim))
        return {"logits": ops.linear(x, w[f"linears.{k}.weight"], w[f"linears.{k}.bias"] if cfg.bias_proj else None)}

    def _token_embedding(self, k: int) -> tuple[str, Embedding]:
        cfg, dep = self.cfg, self.dep
        path, card = ("depformer_text_emb", cfg.text_card) if k == 0 else (f"depformer_emb.{k - 1}", cfg.card)
        return path, Embedding(card + 1, dep.transformer.dim, cfg.norm_emb, dep.low_rank)
