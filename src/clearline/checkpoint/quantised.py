"""Quantised tensors that lie in a file as several: MLX's affine groups and bitsandbytes' rows."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clearline.checkpoint.lazy import Lazy
from clearline.errors import CheckpointError
from clearline.ops import Weight

# Tensors whose input is the model's width, which the final norm's size tells: they say how many bits a code has.
_ANCHORS = (
    r"text_linear\.weight",
    r"transformer\.layers\.0\.self_attn\.in_proj(s\.0)?(\.|_)weight",
    r"transformer\.layers\.0\.gating\.linear_in\.weight",
)


def fold(path: Path, tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The same tensors with each quantised one in one piece, codes, scales and all."""
    out = dict(tensors)
    scaled = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    bits = _bits(path, tensors) if any(out[f"{base}.weight"].kind == "U32" for base in scaled if f"{base}.weight" in out) else 8
    for base in scaled:
        scales, biases = out.pop(f"{base}.scales"), out.pop(f"{base}.biases", None)
        codes = out.get(f"{base}.weight")
        if codes is None:
            raise CheckpointError(f"{path}: {base}.scales has no {base}.weight beside it")
        out[f"{base}.weight"] = _groups(path, base, codes, scales, biases, bits)
    for name in [name for name in tensors if name.endswith("_scb")]:
        target, scb = name.removesuffix("_scb"), out.pop(name)
        codes = out.get(target)
        if codes is None or codes.kind != "I8" or len(codes.shape) != 2 or scb.shape != codes.shape[:1]:
            raise CheckpointError(f"{path}: {name} {list(scb.shape)} needs a matrix of int8 codes in {target} with as many rows")
        out[target] = _rows(codes, scb)
    return out


def group_size(tensor: Lazy) -> int:
    """Values that share a scale, read from what `kind` says; 0 for dense tensors."""
    found = re.search(r"groups of (\d+)", tensor.kind)
    return int(found[1]) if found else 0


def _bits(path: Path, tensors: Mapping[str, Lazy]) -> int:
    norm = tensors.get("out_norm.weight") or tensors.get("out_norm.alpha")
    for pattern in _ANCHORS:
        for name, tensor in tensors.items():
            if norm is not None and tensor.kind == "U32" and re.fullmatch(pattern, name):
                width = math.prod(norm.shape)
                bits, rest = divmod(32 * tensor.shape[-1], width) if width and len(tensor.shape) == 2 else (0, 0)
                if rest or bits not in (4, 8):
                    raise CheckpointError(f"{path}: {name} has {bits} bits a weight; known: 4 and 8")
                return bits
    raise CheckpointError(f"{path}: quantised tensors, but none of those that would say in how many bits")


def _groups(path: Path, base: str, codes: Lazy, scales: Lazy, biases: Lazy | None, bits: int) -> Lazy:
    """MLX: weight uint32 [out, in * bits / 32] with the first code lowest, value = code * scale + bias.

    `clearline convert` writes 8-bit codes as uint8 [out, in], which says what it is whatever the other tensors are. Without biases
    the groups are symmetric.
    """
    if codes.kind not in ("U32", "U8") or len(codes.shape) != 2 or not codes.shape[1]:
        found = f"{base}.weight is {codes.kind} {list(codes.shape)}"
        raise CheckpointError(f"{path}: {found}; beside .scales it must be codes in uint32, or in uint8 when they have 8 bits")
    bits = 8 if codes.kind == "U8" else bits
    out, width = codes.shape[0], codes.shape[1] * (1 if codes.kind == "U8" else 32 // bits)
    shapes = {scales.shape, scales.shape if biases is None else biases.shape}
    groups = scales.shape[1] if len(scales.shape) == 2 else 0
    group = width // groups if groups and width % groups == 0 else 0
    if len(shapes) != 1 or scales.shape[0] != out or group not in (16, 32, 64, 128, 256):
        found = f"{base}.scales {list(scales.shape)}" + ("" if biases is None else f", biases {list(biases.shape)}")
        raise CheckpointError(f"{path}: {found} do not fit {out} rows of {width} {bits}-bit codes in groups of 16 to 256")

    def read() -> Weight:
        data = codes.read().data.view(np.uint8)
        return Weight("", data, scales.read().data, bits, group, None if biases is None else biases.read().data)

    nbytes = codes.nbytes + scales.nbytes + (0 if biases is None else biases.nbytes)
    return Lazy((out, width), f"{bits} bits, groups of {group}", nbytes, read)


def _rows(codes: Lazy, scb: Lazy) -> Lazy:
    """bitsandbytes: int8 codes, value = code * scb / 127 with one scb a row, spread here over groups."""
    out, width = codes.shape
    group = math.gcd(width, 128)

    def read() -> Weight:
        scale = scb.read().data.astype(np.float32) / np.float32(127)
        data = codes.read().data
        if group < 16:
            return Weight("", data.astype(np.float32) * scale[:, None])
        return Weight("", data.view(np.uint8) ^ 128, np.repeat(scale[:, None], width // group, 1), 8, group)

    return Lazy((out, width), "8 bits, rows", codes.nbytes + scb.nbytes, read)
