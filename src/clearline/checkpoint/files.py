"""Which files a model folder may name, and opening any of them: safetensors (one or in shards) and GGUF; never a pickle."""

import json
from pathlib import Path
from typing import Any

from clearline.checkpoint import gguf, safetensors
from clearline.checkpoint.lazy import Lazy
from clearline.errors import CheckpointError

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_MAX_JSON = 16 << 20
INDEX = ".safetensors.index.json"


def open_tensors(path: Path) -> dict[str, Lazy]:
    """Every tensor of a weight file, or of all the shards that an index lists, by the names they have there."""
    if path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path} is a pickle, which can run any code when it is opened, so it is not. Convert it where you trust it:\n"
            "  python -c \"import sys, torch, safetensors.torch as s; p = torch.load(sys.argv[1], 'cpu', weights_only=True); "
            f"s.save_file(p.get('fsdp_best_state', p).get('model', p), sys.argv[2])\" {path.name} {path.stem}.safetensors"
        )
    if path.name.endswith(INDEX):
        return _sharded(path)
    if path.suffix == ".gguf":
        return gguf.open_tensors(path)
    if path.suffix in (".safetensors", ".sft", ".sfts"):
        return safetensors.open_tensors(path)
    raise CheckpointError(f"{path}: weights are read from .safetensors, {INDEX} and .gguf files, not from {path.suffix or 'this'}")


def pickled(folder: Path) -> Path | None:
    """The largest pickle of a folder: the weights of an older package, where nothing readable lies beside it."""
    found = [path for path in folder.iterdir() if path.suffix in _PICKLES and path.is_file()]
    return max(found, key=lambda path: path.stat().st_size, default=None)


def shards(path: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors: the file itself, or those its index lists."""
    if not path.name.endswith(INDEX):
        return [path]
    index = read_json(path)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{path}: weight_map must say which file holds each tensor")
    return [member(path.parent, name) for name in sorted(set(names.values()))]


def member(folder: Path, name: str) -> Path:
    """The file `name` of a model folder; a name or a link that leads out of the folder is refused."""
    name = name.removeprefix("file://")
    path = folder / name
    real, root = path.resolve(), folder.resolve()
    # The hub's cache keeps a snapshot's files as links into its own blobs.
    cache = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if Path(name).is_absolute() or not (real.is_relative_to(root) or real.is_relative_to(cache)):
        raise CheckpointError(f"{name!r} leads out of the model's folder, to {real}; put the file into {folder}")
    return path


def read_json(path: Path) -> Any:
    """A JSON file of sane size. Raises CheckpointError when it is not there or not readable."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes: that is not a configuration file")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error


def _sharded(path: Path) -> dict[str, Lazy]:
    out: dict[str, Lazy] = {}
    for shard in shards(path):
        found = safetensors.open_tensors(shard)
        twice = sorted(out.keys() & found.keys())
        if twice:
            raise CheckpointError(f"{shard}: {', '.join(twice[:5])} also lie in another shard of {path.name}")
        out |= found
    listed = set(read_json(path)["weight_map"])
    if listed != out.keys():
        odd = sorted(listed ^ out.keys())
        raise CheckpointError(f"{path} and its shards disagree about {len(odd)} tensors: {', '.join(odd[:5])}")
    return out
