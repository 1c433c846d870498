"""What a name or a path on the command line of `clearline audit` stands for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clearline.checkpoint.files import open_tensors, read_json
from clearline.checkpoint.folder import open_checkpoint, read_config
from clearline.checkpoint.hub import model_path
from clearline.checkpoint.lazy import Lazy
from clearline.checkpoint.quantised import fold
from clearline.config import LMConfig, Sampling
from clearline.config.audit import Setup, setup
from clearline.config.checkpoint import CheckpointConfig
from clearline.config.kyutai import parse_checkpoint
from clearline.config.named import MODEL_NAMES, named_model
from clearline.config.programs import PROGRAMS, Program, program
from clearline.config.rust import BackendFiles, read_backend, read_toml
from clearline.errors import ClearlineError, ConfigError


def named_setup(spec: str, locate: Callable[[str], Path] = model_path) -> Setup:
    """A column of an audit. `spec` is a model, a program, or MODEL@PROGRAM: the model as that program would use it.

    Models: a folder, a config.json, a moshi-core TOML, or a name such as `mlx:config_v0_1` or `v0_1_streaming(8)`. Programs:
    `mlx:local`, `rust:moshi-backend` and so on, or a moshi-backend JSON. A TOML or a name of moshi-core alone is used as
    moshi-cli would, MLX's names as moshi_mlx's run_inference would, anything else as Clearline does, which is PyTorch's way.
    `locate` finds models that are neither paths nor known names.
    """
    model, _, runner = spec.rpartition("@") if "@" in spec and not Path(spec).exists() else (spec, "", "")
    chosen = program(runner) if runner else None
    if runner and chosen is None:
        raise ConfigError(f"there is no program {runner!r}; known: {', '.join(PROGRAMS)}")
    alone = program(model)
    if alone is not None and not runner:
        return setup(model, alone, None)
    path = locate(model)
    if not path.exists():
        return _from_name(spec, model, chosen)
    if path.is_dir():
        return _from_folder(spec, path, chosen)
    if path.suffix == ".toml":
        found = read_toml(path)
        return setup(spec, chosen or PROGRAMS["rust:moshi-cli"], found.lm, conditioners=found.conditioners)
    if path.suffix == ".json":
        return _from_json(spec, path, chosen)
    raise ConfigError(f"{path}: an audit compares folders, .json and .toml files, not {path.suffix or 'this'}")


def _from_name(spec: str, model: str, chosen: Program | None) -> Setup:
    found = named_model(model)
    if found is None:
        known = ", ".join((*PROGRAMS, *MODEL_NAMES))
        raise ConfigError(f"{model!r} is neither a file nor a folder, and no known name. Known names: {known}")
    room = found[0].partition(":")[0]
    default = {"rust": "rust:moshi-cli", "mlx": "mlx:run_inference", "nvidia": "nvidia:personaplex"}.get(room, "clearline")
    return setup(spec, chosen or PROGRAMS[default], found[1])


def _from_json(spec: str, path: Path, chosen: Program | None) -> Setup:
    raw = read_json(path)
    if isinstance(raw, dict) and "lm_model_file" in raw:
        backend: BackendFiles = read_backend(path)
        return setup(spec, chosen or PROGRAMS["rust:moshi-backend"], None, backend=backend)
    return _from_checkpoint(spec, parse_checkpoint(raw), chosen, None)


def _from_folder(spec: str, folder: Path, chosen: Program | None) -> Setup:
    config, _, source = read_config(folder)
    if chosen is None and source.endswith(".toml"):
        chosen = PROGRAMS["rust:moshi-cli"]
    column = _from_checkpoint(spec, config, chosen, _stored(folder))
    return Setup(column.name, column.values, (*column.notes, source) if source != "config.json" else column.notes)


def _from_checkpoint(spec: str, config: CheckpointConfig, chosen: Program | None, stored: str | None) -> Setup:
    lm: LMConfig = config.lm
    text: Sampling = config.generation.text
    program = chosen or PROGRAMS["clearline"]
    if chosen is None and config.model_type == "personaplex":
        program = replace(program, preset="nvidia-personaplex")
    return setup(
        spec, program, lm, conditioners=config.conditioners, text=text, audio=config.generation.audio, quantisation=stored,
        dep_q=config.stored_lm.dep_q,
    )  # fmt: skip


def _stored(folder: Path) -> str | None:
    """How a folder's weights are stored, or None where there are none."""
    try:
        checkpoint = open_checkpoint(folder)
        if not checkpoint.lm_path.is_file():
            return None
        return main_kind(fold(checkpoint.lm_path, open_tensors(checkpoint.lm_path)))
    except ClearlineError:
        return None


def main_kind(tensors: dict[str, Lazy]) -> str:
    """The way of storing that most bytes of a file have."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.nbytes
    return max(sizes, key=lambda kind: sizes[kind]) if sizes else "empty"
