"""From any model folder to one in Kyutai's file format: another precision, another naming, LoRA fused, tensor by tensor."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from clearline.checkpoint.condition import CONDITIONER_PREFIX
from clearline.checkpoint.files import member, open_tensors, read_json, shards
from clearline.checkpoint.folder import Checkpoint
from clearline.checkpoint.gguf_blocks import BLOCK, block_kind, blocks
from clearline.checkpoint.layouts import LAYOUTS, Layout, file_names
from clearline.checkpoint.lazy import Lazy, LazyWeights, release_pages
from clearline.checkpoint.names import is_linear, linear_bits
from clearline.checkpoint.rounding import BITS
from clearline.checkpoint.safetensors import file_hash, spelling
from clearline.checkpoint.writer import GGUF_ALIGNMENT, Entry, Unit, locked, write, write_text
from clearline.config.kyutai import MOSHI_7B, parse_checkpoint
from clearline.config.raw import to_raw
from clearline.errors import CheckpointError, ConfigError
from clearline.ops import Weight
from clearline.ops.rounding import GROUP, affine, rounded
from clearline.ops.weight import quantise

Precision = Literal["q8", "q4", "bf16", "f32"]
# What moshi_mlx's own programs expect in files of these names.
_MLX_GROUP = {8: 64, 4: 32}
_IN_BLOCKS = ("candle", "moshi.cpp")
CODEC, CODEC_CONFIG = "mimi.safetensors", "mimi_config.json"
MANIFEST = "clearline.json"
_LOCK = ".clearline-convert.lock"


@dataclass(frozen=True)
class Converted:
    """Where the result lies, its hash, its size, and whether it had been made before."""

    folder: Path
    weights: Path
    sha256: str
    nbytes: int
    reused: bool


def convert(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    layout: Layout = "kyutai",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    weights_only: bool = False,
) -> Converted:
    """Write a complete model folder; see `writer.write` for what a kill leaves behind. Raises ClearlineError.

    Quantised: linears and output heads in groups of 32, as `load(quantize=...)` makes them (8 bits: symmetric with float32 scales;
    4 bits: bfloat16 scales and biases; `linear_bits` says which has which), embeddings and norms as they were. For Candle and
    moshi.cpp, GGUF with blocks of 32: Q8_0, Q4_0 and, for asymmetric codes that are kept, Q4_1; scales in float16. In the mlx
    layout, what `mlx.nn.quantize` would hold quantised: every linear and embedding, groups of 64 (q8) or 32 (q4), bfloat16
    scales and biases. Codes that are already in the wanted form are kept.

    An earlier result is found again by its hash. With `weights_only`, codec and tokenizer are left out, and its size and
    time are enough.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision!r} is not known; known: {', '.join(get_args(Precision))}")
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout!r} is not known; known: {', '.join(LAYOUTS)}")
    source = checkpoint.stored_weights()
    units = list(_units(checkpoint, source, precision, layout))
    # Candle reads quantised weights from GGUF only, moshi.cpp's own files are GGUF whatever they hold.
    gguf = layout == "moshi.cpp" or (layout == "candle" and precision in BITS)
    name = "model" + (f".{precision}" if precision in BITS else "") + (".gguf" if gguf else ".safetensors")
    if gguf:
        units = [replace(unit, alignment=GGUF_ALIGNMENT) for unit in units]
    _make_folder(folder, checkpoint, sum(unit.nbytes for unit in units))
    key = conversion_key(checkpoint, precision, layout)
    with locked(folder / _LOCK):
        done = _finished(folder, name, key, weights_only)
        if done is not None:
            return done
        config = _config(checkpoint, name, folder)
        digest = write(folder / name, units, key, on_progress)
        if not weights_only:
            _copy_companions(checkpoint, folder)
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        manifest = {
            "key": key,
            "source": str(checkpoint.folder.resolve()),
            "precision": precision,
            "names": layout,
            "sha256": {name: digest},
            "stat": _stat(folder / name),
        }
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return Converted(folder, folder / name, digest, (folder / name).stat().st_size, False)


def _units(checkpoint: Checkpoint, source: LazyWeights, precision: Precision, layout: Layout) -> Iterator[Unit]:
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    bits = BITS.get(precision, 0)
    for target, name, shape in file_names(checkpoint.config.stored_lm, shapes, layout):
        tensor = source.tensors[name]
        if bits and layout == "mlx" and _mlx_quantises(name, checkpoint):
            yield _mlx_unit(target, name, source, bits)
        elif bits and layout in _IN_BLOCKS and shape[-1] % BLOCK == 0 and (_has_codes(tensor, bits) or is_linear(name)):
            yield _block_unit(target, name, source, bits)
        elif bits and layout == "kyutai" and (_has_codes(tensor, bits) or (is_linear(name) and shape[1] % GROUP == 0)):
            yield _quantised_unit(target, name, source, bits if _has_codes(tensor, bits) else linear_bits(name, bits))
        else:
            kept = name.startswith(CONDITIONER_PREFIX)  # Kyutai computes conditions in float32, whatever the model's precision
            yield _dense_unit(target, name, source, shape, tensor.kind if kept else _dense_dtype(tensor, precision))


def _mlx_quantises(name: str, checkpoint: Checkpoint) -> bool:
    """nn.quantize takes every Linear and every Embedding without submodules."""
    if is_linear(name) or name.endswith("low_rank.weight") or name.startswith("extra_heads."):
        return True
    dep = checkpoint.config.stored_lm.depformer
    low_rank = dep is not None and dep.low_rank is not None
    return name.endswith(".weight") and "emb" in name and not (low_rank and name.startswith("depformer_"))


def _dense_dtype(tensor: Lazy, precision: Precision) -> str:
    if precision in ("f32", "bf16"):
        return precision.upper()
    return tensor.kind if tensor.kind in ("BF16", "F16", "F32") else "F32"


def _dense_unit(target: str, name: str, source: LazyWeights, shape: tuple[int, ...], dtype: str) -> Unit:
    wanted: Any = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]

    def make() -> list[np.ndarray]:
        release_pages()
        weight = source[name]
        data = weight.data if not weight.bits else weight.dense(np.float32)
        return [data.astype(wanted, copy=False).reshape(shape)]

    return Unit((Entry(target, dtype, shape),), make)


def _quantised_unit(target: str, name: str, source: LazyWeights, bits: int) -> Unit:
    """Kyutai's name with codes (8 bits: uint8 [out, in]; 4: uint32, eight a word), scales and, for asymmetric groups, biases."""
    tensor = source.tensors[name]
    out, width = tensor.shape
    # Only reading tells how kept codes are grouped. Nothing else may be read already: a LoRA would be fused for it.
    stored = source[name].rows(0, 1) if _has_codes(tensor, bits) else None
    kept = stored is not None and stored.bits == bits
    sample = stored if stored is not None and kept else rounded(Weight(name, np.zeros((1, width), np.float32)), bits)
    base = target.removesuffix(".weight")
    words = np.dtype({8: "u1", 4: "<u4"}[bits])
    entries = [Entry(f"{base}.weight", spelling(words), (out, width * bits // 8 // words.itemsize))]
    for part, array in (("scales", sample.scale), ("biases", sample.bias)):
        if array is not None:
            entries.append(Entry(f"{base}.{part}", spelling(array.dtype), (out, array.shape[1])))

    def make() -> list[np.ndarray]:
        release_pages()
        weight = source[name] if kept else rounded(source[name], bits)
        arrays = [np.ascontiguousarray(weight.data).view(words), weight.scale, weight.bias]
        return [array for array in arrays if array is not None]

    return Unit(tuple(entries), make)


def _block_unit(target: str, name: str, source: LazyWeights, bits: int) -> Unit:
    # Only codes that may be kept have to be looked at to tell their type.
    kind = block_kind(source[name].rows(0, 1) if _has_codes(source.tensors[name], bits) else None, bits)

    def make() -> list[np.ndarray]:
        release_pages()
        return [blocks(source[name], kind)]

    return Unit((Entry(target, kind, source.tensors[name].shape),), make)


def _has_codes(tensor: Lazy, bits: int) -> bool:
    """Whether a tensor is stored in groups of so many bits already."""
    return tensor.kind.startswith(f"{bits} bits") or tensor.kind in {8: ("Q8_0",), 4: ("Q4_0", "Q4_1", "Q4_K")}[bits]


def _mlx_unit(target: str, name: str, source: LazyWeights, bits: int) -> Unit:
    out, width = source.tensors[name].shape
    group = _MLX_GROUP[bits]
    if width % group:
        raise ConfigError(f"{name} has {width} columns, which MLX cannot quantise in groups of {group}; use --names kyutai")
    base = target.removesuffix(".weight")
    groups = (out, width // group)
    entries = (
        Entry(f"{base}.weight", "U32", (out, width * bits // 32)),
        Entry(f"{base}.scales", "BF16", groups),
        Entry(f"{base}.biases", "BF16", groups),
    )

    def make() -> list[np.ndarray]:
        release_pages()
        weight = source[name]
        if weight.bits != bits or weight.group != group or weight.bias is None:
            weight = affine(weight, group) if bits == 4 else _whole_offsets(weight, bits, group)
        assert weight.scale is not None and weight.bias is not None
        heads = (weight.scale.astype(ml_dtypes.bfloat16), weight.bias.astype(ml_dtypes.bfloat16))
        return [np.ascontiguousarray(weight.data).view("<u4"), *heads]

    return Unit(entries, make)


def _whole_offsets(weight: Weight, bits: int, group: int) -> Weight:
    """Symmetric groups as affine ones. Scales are bfloat16 from the start, so that codes are rounded for those that are stored."""
    weight = quantise(weight, bits, group, scale_dtype=ml_dtypes.bfloat16)
    assert weight.scale is not None
    return replace(weight, bias=-weight.scale * np.float32(weight.zero))


def _config(checkpoint: Checkpoint, name: str, folder: Path) -> dict[str, Any]:
    """config.json for the new folder: the old one where it is Kyutai's, with the files' new names and nothing fused left."""
    if checkpoint.source == "config.json":
        raw = dict(read_json(checkpoint.folder / "config.json"))
    elif checkpoint.source.startswith("no config.json"):
        raw = dict(MOSHI_7B)
    else:
        raw = to_raw(checkpoint.config.stored_lm)
    for key in ("lora", "lora_name", "lora_rank", "lora_scaling", "quantize"):
        raw.pop(key, None)
    raw |= {"moshi_name": name, "mimi_name": checkpoint.mimi_path.name, "tokenizer_name": checkpoint.tokenizer_path.name}
    if checkpoint.codec_inside:
        raw |= {"mimi_name": CODEC, "mimi_config_name": CODEC_CONFIG}
    if parse_checkpoint(raw).lm != checkpoint.config.lm:
        raise CheckpointError(f"the configuration of {checkpoint.folder} cannot be written as Kyutai's config.json")
    return raw


def _copy_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Codec, its config, tokenizer, model card: those that are there. A folder without them stays without them."""
    paths = [checkpoint.tokenizer_path, checkpoint.folder / "README.md"]
    if checkpoint.codec_inside:
        _write_codec(checkpoint, folder)
    else:
        paths.append(checkpoint.mimi_path)
    if checkpoint.config.mimi_config_name is not None:
        paths.append(member(checkpoint.folder, checkpoint.config.mimi_config_name))
    for path in paths:
        if path.is_file():
            aside = folder / f".{path.name}.copy"
            shutil.copyfile(path, aside)
            aside.replace(folder / path.name)


def _write_codec(checkpoint: Checkpoint, folder: Path) -> None:
    """A codec out of the model's own file, as `kyutai/mimi` is published: transformers' names, every tensor as it was."""
    prefix = "audio_encoder."
    tensors = {n.removeprefix(prefix): t for n, t in open_tensors(checkpoint.lm_path).items() if n.startswith(prefix)}
    units = [Unit((Entry(name, t.kind, t.shape),), lambda t=t: [t.read().data]) for name, t in tensors.items()]  # type: ignore[misc]
    write(folder / CODEC, units, conversion_key(checkpoint, "as stored", "transformers"))
    raw = read_json(checkpoint.folder / "config.json")["audio_encoder_config"] | {"model_type": "mimi"}
    write_text(folder / CODEC_CONFIG, json.dumps(raw, indent=2) + "\n")


def conversion_key(checkpoint: Checkpoint, precision: str, layout: str) -> str:
    """What the result depends on; file times stand for contents, which would take as long to hash as to convert."""
    files = shards(checkpoint.lm_path)
    if checkpoint.config.lora is not None:
        files.append(member(checkpoint.folder, checkpoint.config.lora.name))
    facts = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return hashlib.sha256(json.dumps([facts, repr(checkpoint.config), precision, layout, 3]).encode()).hexdigest()


def _stat(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _finished(folder: Path, name: str, key: str, quick: bool) -> Converted | None:
    """An earlier result of the same conversion whose file is still what was recorded."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        digest = manifest["sha256"][name]
        sound = manifest["stat"] == _stat(folder / name) if quick else file_hash(folder / name) == digest
        if manifest["key"] != key or not sound:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Converted(folder, folder / name, digest, (folder / name).stat().st_size, True)


def _make_folder(folder: Path, checkpoint: Checkpoint, needed: int) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot write into {folder}: it is a file; the result is a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder}: {error}") from error
    if folder.resolve() == checkpoint.folder.resolve():
        raise CheckpointError(f"{folder} is the model itself; choose another folder for the result")
    there = sum(path.stat().st_size for path in folder.glob("model*.part"))
    if free + there < needed:
        raise CheckpointError(f"{folder} has {free / 1e9:.1f} GB free, but the result needs {needed / 1e9:.1f} GB")
