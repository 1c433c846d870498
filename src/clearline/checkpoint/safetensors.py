"""Kyutai's safetensors files: read, renamed, and checked tensor by tensor against what the configuration needs."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401 - teaches NumPy the name bfloat16, which safetensors asks it for
import numpy as np
from safetensors import SafetensorError, safe_open

from clearline.checkpoint.names import codebook_alias, hf_mimi_name, is_hf_mimi, stacked_target
from clearline.errors import CheckpointError
from clearline.ops import Weight

_MAX_LISTED = 20


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file, by its own name, in its stored dtype. Raises CheckpointError when unreadable."""
    if path.suffix in (".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path} is a pickle, which can run code when opened; convert it to safetensors first")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def file_hash(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lm_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    """The language model's weights; `expected` is what the configuration needs, by name and shape."""
    return _checked(path, _unstack(read(path), expected), expected)


def mimi_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    """The codec's weights, from either published naming, with each codebook as embedding_sum / max(cluster_usage, 1e-5)."""
    tensors = read(path)
    if is_hf_mimi(tensors):
        tensors = _join_projections({hf_mimi_name(name): tensor for name, tensor in tensors.items()})
    tensors = {codebook_alias(name): tensor for name, tensor in tensors.items()}
    return _checked(path, dict(_codebooks(_unstack(tensors, expected))), expected)


def _unstack(tensors: dict[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        target = stacked_target(name)
        if target is None:
            out[name] = tensor
            continue
        sets = 0
        while target.format(sets) in expected:
            sets += 1
        if sets == 0 or tensor.shape[0] % sets:
            out[name] = tensor  # stays under its own name, and is reported as not expected
            continue
        for i, part in enumerate(np.split(tensor, sets)):
            out[target.format(i)] = part
    return out


def _join_projections(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {name: tensor for name, tensor in tensors.items() if "#" not in name}
    for name in {name.partition("#")[0] for name in tensors if "#" in name}:
        parts = [tensors.get(f"{name}#{letter}") for letter in "qkv"]
        present = [part for part in parts if part is not None]
        if len(present) == 3:
            # Hugging Face rotates split halves; Kyutai's weights rotate interleaved pairs: transformers' files are
            # stored in Kyutai's order, so the rows are joined as they are.
            out[name] = np.concatenate(present)
    return out


def _codebooks(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in tensors.items():
        if not name.endswith(("._codebook.cluster_usage", "._codebook._initialized", "._codebook.embedding_sum")):
            yield name, tensor
        elif name.endswith(".embedding_sum"):
            usage = tensors.get(name.removesuffix("embedding_sum") + "cluster_usage")
            if usage is not None and usage.shape[:1] == tensor.shape[:1]:
                centroids = tensor.astype(np.float32) / np.maximum(usage.astype(np.float32), np.float32(1e-5))[:, None]
                yield name.removesuffix("_sum"), centroids


def _checked(path: Path, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    problems: list[str] = []
    for name, shape in expected.items():
        if name not in tensors:
            problems.append(f"{name}: expected {list(shape)}, not in the file")
        elif tuple(tensors[name].shape) != shape:
            problems.append(f"{name}: expected {list(shape)}, found {list(tensors[name].shape)}")
        elif tensors[name].dtype.name not in ("float32", "float16", "bfloat16", "float64"):
            problems.append(f"{name}: expected floating point, found {tensors[name].dtype.name}")
    problems += [f"{name}: in the file {list(tensors[name].shape)}, not expected" for name in tensors if name not in expected]
    if problems:
        more = f"\n  ... and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        raise CheckpointError(
            f"{path} contradicts its configuration in {len(problems)} tensor{'s' * (len(problems) > 1)}:\n  "
            + "\n  ".join(problems[:_MAX_LISTED]) + more
        )  # fmt: skip
    return {name: Weight(name, tensors[name]) for name in expected}
