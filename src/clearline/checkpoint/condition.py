"""A constant condition folded into the text embeddings, so that a conditioned model is an ordinary one to the engine.

Kyutai adds the condition's vector to the sum of a step's embeddings. Every step has exactly one text token, so adding it
to each row of the text table is the same sum.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clearline.checkpoint.lazy import Lazy
from clearline.config.checkpoint import LutConditioner
from clearline.errors import CheckpointError, ConfigError
from clearline.ops import Weight

CONDITIONER_PREFIX = "condition_provider."
TEXT_EMBEDDING = "text_emb.weight"
_END_OF_TEXT, _PADDING = 2, 3


def conditioned(path: Path, tensors: Mapping[str, Lazy], lut: LutConditioner, value: str) -> dict[str, Lazy]:
    """Tensors without the conditioner's own, with `value`'s vector in the text embeddings."""
    if value not in lut.values:
        raise ConfigError(f"the condition {lut.name} is {value!r}; this model knows {', '.join(lut.values)}")
    table, projection = (
        _tensor(path, tensors, f"{CONDITIONER_PREFIX}conditioners.{lut.name}.{part}.weight") for part in ("embed", "output_proj")
    )
    text = _tensor(path, tensors, TEXT_EMBEDDING)
    wanted = ((lut.n_bins + 1, lut.dim), (text.shape[-1], lut.dim))
    if (table.shape, projection.shape) != wanted:
        raise CheckpointError(f"{path}: the conditioner {lut.name} has shapes {table.shape}, {projection.shape}; expected {wanted}")

    def read() -> Weight:
        row = table.read().dense(np.float32)[lut.values.index(value)]
        vector = projection.read().dense(np.float32) @ row
        return Weight("", text.read().dense(np.float32) + vector)

    out = {name: tensor for name, tensor in tensors.items() if not name.startswith(CONDITIONER_PREFIX)}
    return out | {TEXT_EMBEDDING: Lazy(text.shape, "F32", text.nbytes, read)}


def early_end_as_padding(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Hibiki may say the end-of-text token (2) too early: read back, it counts as padding (3), as in Kyutai's loader."""
    text = tensors[TEXT_EMBEDDING]

    def read() -> Weight:
        rows = text.read().dense(np.float32).copy()
        rows[_END_OF_TEXT] = rows[_PADDING]
        return Weight("", rows)

    return dict(tensors) | {TEXT_EMBEDDING: Lazy(text.shape, "F32", text.nbytes, read)}


def _tensor(path: Path, tensors: Mapping[str, Lazy], name: str) -> Lazy:
    if name not in tensors:
        raise CheckpointError(f"{path} has no {name}, which its conditioner needs")
    return tensors[name]
