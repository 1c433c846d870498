"""How much memory a model takes on a device, and what would fit when it is too little."""

import math
from collections.abc import Iterable, Mapping

from clearline.checkpoint import is_linear
from clearline.config import LMConfig
from clearline.errors import BackendError
from clearline.model import lm_weights
from clearline.ops import StateSpec

_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Of a quantised weight its code, and for every 32 of them a scale and an offset, which are of the float type that computes.
_CODE_BYTES = {"q8": 1.0, "q4": 0.5}
# What libraries, kernels and activations take.
_WORKSPACE = 700_000_000


def needed_bytes(cfg: LMConfig, codec_values: int, dtype: str, quantize: str | None, stored: int | None = None) -> int:
    """Bytes of the weights, the codec (never less than float32) and the streaming state of one session.

    `stored`: bytes of the model's file, which tells a model that is quantised already from one that is not.
    """
    size = _DTYPE_BYTES[dtype]
    values, weights = 0, 0.0
    for name, shape in lm_weights(cfg).items():
        count = math.prod(shape)
        quantised = quantize is not None and is_linear(name) and len(shape) == 2 and shape[1] % 32 == 0
        weights += count * (_CODE_BYTES[str(quantize)] + 2 * size / 32 if quantised else size)
        values += count
    if quantize is None and stored is not None and stored < 1.5 * values:
        weights = 1.25 * stored
    return round(weights) + codec_values * max(4, size) + session_bytes(cfg, dtype) + _WORKSPACE


def session_bytes(cfg: LMConfig, dtype: str) -> int:
    """Keys and values of one session whose context is full."""
    transformer = cfg.transformer
    row = 2 * transformer.num_kv_heads * transformer.head_dim * _DTYPE_BYTES[dtype]
    return transformer.num_layers * transformer.context * row


def state_bytes(specs: Iterable[StateSpec], dtype: str) -> int:
    """Streaming state of these specifications; of a ring keys and values, and the rows of one step."""
    size, values = _DTYPE_BYTES[dtype], 0
    for spec in specs:
        if spec.kind == "ring":
            batch, heads, capacity, dim = spec.shape
            values += 2 * batch * heads * (capacity + spec.rows) * dim
        else:
            values += math.prod(spec.shape)
    return values * size


def check_memory(
    cfg: LMConfig,
    codec_shapes: Mapping[str, tuple[int, ...]],
    where: str,
    dtype: str,
    quantize: str | None,
    free: int | None,
    stored: int | None = None,
) -> None:
    """Raise BackendError when the model does not fit into `free` bytes (None: nobody knows), naming what would."""
    if free is None:
        return
    codec = sum(math.prod(shape) for shape in codec_shapes.values())
    needed = {choice: needed_bytes(cfg, codec, dtype, choice, stored) for choice in (None, "q8", "q4")}
    if needed[quantize] <= free:
        return
    fitting = [f"--quantize {choice} ({size / 1e9:.1f} GB)" for choice, size in needed.items()
               if choice is not None and size <= free and size < needed[quantize]]  # fmt: skip
    narrower = (
        "--dtype bfloat16" if _DTYPE_BYTES[dtype] > 2 and needed_bytes(cfg, codec, "bfloat16", quantize, stored) <= free else ""
    )
    ways = [*([narrower] if narrower else []), *fitting]
    advice = f"what would fit: {', '.join(ways)}" if ways else "nothing smaller would fit; use --device cpu"
    raise BackendError(
        f"this model needs {needed[quantize] / 1e9:.1f} GB on {where} in {dtype}, and {free / 1e9:.1f} GB are free; {advice}"
    )


def check_lanes(lanes: int, each: int, where: str, dtype: str, free: int | None) -> None:
    """Raise BackendError when the state of so many lanes, of `each` bytes, does not fit beside a loaded model."""
    if free is not None and lanes * each > free:
        raise BackendError(
            f"{lanes} conversations need {lanes * each / 1e9:.1f} GB for their past on {where} in {dtype}, and "
            f"{free / 1e9:.1f} GB are free beside the model; {free // each} would fit"
        )
