"""Split residual vector quantisation: codebook 0 quantises the latent alone, 1.. quantise it again as a residual chain."""

from collections.abc import Iterator
from dataclasses import dataclass

from clearline.config import MimiConfig
from clearline.ops import Array, Ops, StateSpec, Weights, WeightSpec


@dataclass(frozen=True)
class SplitRVQ:
    """Codes of the first `num_codebooks` codebooks: always a prefix of the codes with more."""

    cfg: MimiConfig
    num_codebooks: int

    @property
    def halves(self) -> tuple[tuple[str, int, int], ...]:
        """(path, codebooks in the checkpoint, codebooks used) of the semantic and the acoustic half."""
        semantic = self.cfg.n_q_semantic
        return (
            ("rvq_first", semantic, min(semantic, self.num_codebooks)),
            ("rvq_rest", self.cfg.n_q - semantic, max(0, self.num_codebooks - semantic)),
        )

    def weights(self) -> Iterator[WeightSpec]:
        cfg = self.cfg
        for path, count, _ in self.halves:
            yield WeightSpec(f"{path}.input_proj.weight", (cfg.codebook_dim, cfg.dimension, 1))
            yield WeightSpec(f"{path}.output_proj.weight", (cfg.dimension, cfg.codebook_dim, 1))
            for level in range(count):
                yield WeightSpec(f"{path}.vq.layers.{level}._codebook.embedding", (cfg.bins, cfg.codebook_dim))

    def state(self, batch: int) -> Iterator[StateSpec]:
        return iter(())

    def encode(self, ops: Ops, w: Weights, latent: Array) -> Array:
        """latent [B, T, dimension] -> codes int64 [B, num_codebooks, T]."""
        codes: list[Array] = []
        batch, rows, _ = latent.shape
        for path, _, used in self.halves:
            if used == 0:
                continue
            residual = ops.conv1d(latent, w[f"{path}.input_proj.weight"], 1)
            for level in range(used):
                codebook = w[f"{path}.vq.layers.{level}._codebook.embedding"]
                code = ops.nearest_code(residual, codebook)
                codes.append(ops.reshape(code, (batch, 1, rows)))
                if level + 1 < used:
                    residual = residual - ops.embed(code, codebook)
        return ops.concat(codes, 1)

    def decode(self, ops: Ops, w: Weights, codes: Array) -> Array:
        """codes int64 [B, num_codebooks, T] -> latent [B, T, dimension]."""
        batch, _, rows = codes.shape
        latent: Array | None = None
        first = 0
        for path, _, used in self.halves:
            total: Array | None = None
            for level in range(used):
                ids = ops.reshape(ops.slice(codes, 1, first + level, first + level + 1), (batch, rows))
                row = ops.embed(ids, w[f"{path}.vq.layers.{level}._codebook.embedding"])
                total = row if total is None else total + row
            first += used
            if total is not None:
                part = ops.conv1d(total, w[f"{path}.output_proj.weight"], 1)
                latent = part if latent is None else latent + part
        assert latent is not None
        return latent
