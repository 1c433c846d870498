"""Token embeddings: a table with the exact zero row for id -1, optionally normalised and of low rank."""

from collections.abc import Iterator
from dataclasses import dataclass

from clearline.model.layer import weights_at
from clearline.model.transformer import NormLayer
from clearline.ops import Array, Ops, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class Embedding:
    """ids int64 [...] -> [..., dim]. With `norm`, layer normalisation of the row; with `low_rank`, a linear after it."""

    count: int
    dim: int
    norm: bool = False
    low_rank: int | None = None

    @property
    def _norm(self) -> NormLayer:
        return NormLayer("layer_norm", self.low_rank or self.dim)

    def weights(self) -> Iterator[WeightSpec]:
        yield WeightSpec("weight", (self.count, self.low_rank or self.dim))
        if self.norm:
            yield from weights_at("norm", self._norm)
        if self.low_rank is not None:
            yield WeightSpec("low_rank.weight", (self.dim, self.low_rank))

    def state(self, batch: int) -> Iterator[StateSpec]:
        return iter(())

    def __call__(self, ops: Ops, w: Weights, ids: Array) -> Array:
        y = ops.embed(ids, w["weight"])
        if self.norm:
            # A zero row stays zero: normalisation would turn it into its bias.
            y = ops.where_equal(ids, -1, y, self._norm(ops, w.at("norm"), y))
        if self.low_rank is not None:
            y = ops.linear(y, w["low_rank.weight"])
        return y
