"""The temporal step: one row of tokens in, the hidden state and the text logits out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from clearline.config import LMConfig
from clearline.model.depformer import Depformer
from clearline.model.embedding import Embedding
from clearline.model.layer import state_at, weights_at
from clearline.model.transformer import NormLayer, Transformer
from clearline.ops import Array, InputSpec, Ops, State, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class Moshi:
    """hidden = out_norm(transformer(sum of the row's embeddings)); text_logits = hidden W_text^T.

    Inputs: row int64 [B, 1 + n_q]. Outputs: hidden [B, dim], text_logits [B, text_card_out] and, where the model has
    them, extra_heads.k [B, extra_heads_dim] as logits.
    """

    cfg: LMConfig

    def inputs(self, batch: int) -> dict[str, InputSpec]:
        return {"row": InputSpec((batch, self.cfg.streams), ids=True)}

    def weights(self) -> Iterator[WeightSpec]:
        cfg = self.cfg
        dim = cfg.transformer.dim
        for k in range(cfg.n_q):
            yield from weights_at(f"emb.{k}", self._embedding(cfg.card))
        yield from weights_at("text_emb", self._embedding(cfg.text_card))
        yield from weights_at("transformer", Transformer(cfg.transformer))
        yield from weights_at("out_norm", NormLayer(cfg.transformer.norm, dim))
        yield WeightSpec("text_linear.weight", (cfg.text_card_out, dim))
        if cfg.bias_proj:
            yield WeightSpec("text_linear.bias", (cfg.text_card_out,))
        for k in range(cfg.extra_heads):
            yield WeightSpec(f"extra_heads.{k}.weight", (cfg.extra_heads_dim, dim))

    def state(self, batch: int) -> Iterator[StateSpec]:
        yield StateSpec("position", "position", (batch,))
        yield from state_at("transformer", Transformer(self.cfg.transformer), batch)

    def step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._after_embedding(ops, w, s, self.embed(ops, w, inputs["row"]))

    def embed(self, ops: Ops, w: Weights, row: Array) -> Array:
        """The sum of a row's embeddings: row int64 [B, 1 + n_q] -> [B, 1, dim]."""
        cfg = self.cfg
        x = self._embedding(cfg.text_card)(ops, w.at("text_emb"), ops.slice(row, 1, 0, 1))
        for k in range(cfg.n_q):
            x = x + self._embedding(cfg.card)(ops, w.at(f"emb.{k}"), ops.slice(row, 1, k + 1, k + 2))
        return x

    def embedded_inputs(self, batch: int) -> dict[str, InputSpec]:
        return {"embedding": InputSpec((batch, self.cfg.transformer.dim))}

    def embedded_step(self, ops: Ops, w: Weights, s: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same step from the sum of a row's embeddings: embedding [B, dim] in place of the row."""
        batch = inputs["embedding"].shape[0]
        return self._after_embedding(ops, w, s, ops.reshape(inputs["embedding"], (batch, 1, self.cfg.transformer.dim)))

    def _after_embedding(self, ops: Ops, w: Weights, s: State, x: Array) -> dict[str, Array]:
        cfg = self.cfg
        position = s.take("position")
        x = Transformer(cfg.transformer)(ops, w.at("transformer"), s.at("transformer"), x, position)
        x = NormLayer(cfg.transformer.norm, cfg.transformer.dim)(ops, w.at("out_norm"), x)
        s.put("position", position + 1)
        hidden = ops.reshape(x, (x.shape[0], cfg.transformer.dim))
        outputs = {"hidden": hidden}
        outputs["text_logits"] = ops.linear(hidden, w["text_linear.weight"], w["text_linear.bias"] if cfg.bias_proj else None)
        for k in range(cfg.extra_heads):
            outputs[f"extra_heads.{k}"] = ops.linear(hidden, w[f"extra_heads.{k}.weight"])
        return outputs

    def _embedding(self, card: int) -> Embedding:
        return Embedding(card + 1, self.cfg.transformer.dim, self.cfg.norm_emb)


def lm_weights(cfg: LMConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the language model, by Kyutai's name."""
    specs = list(Moshi(cfg).weights())
    if cfg.depformer is not None:
        specs += Depformer(cfg).weights()
    return {spec.name: spec.shape for spec in specs}
