"""A model or a codec from a folder, or by its name, on the backend that suits it."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

from clearline.app.model import Model
from clearline.backends import DEFAULT_BACKEND, Wanted, open_backend
from clearline.checkpoint import BITS, Quantize, model_path, open_checkpoint, read_mimi
from clearline.checkpoint.cache import cached
from clearline.errors import CheckpointError, ConfigError
from clearline.generate import Codec
from clearline.generate.memory import check_memory
from clearline.model import mimi_weights
from clearline.ops import Backend

# Larger language models are quantised once, into CLEARLINE_HOME, and mapped from there ever after.
_CACHED_FROM_BYTES = 500_000_000


def load(
    path_or_name: str | Path = "nano",
    *,
    backend: str = DEFAULT_BACKEND,
    quantize: Quantize | None = None,
    threads: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    cache: str | None = None,
    weights: str | None = None,
    lm_only: bool = False,
    compile: bool = False,
) -> Model:
    """Load a model: "nano", which is part of this package, or a folder in Kyutai's format.

    backend: "auto" takes what suits the machine and the model (`clearline backends` says what and why), else "onnx",
    "torch", "mlx", or "numpy64", the slow float64 reference. device ("cuda", "mps", "cpu", ...) and dtype ("bfloat16", ...)
    are the backend's best and its own unless given; the codec never computes in less than float32. quantize "q8" or "q4"
    rounds the language model's linear weights in groups of 32; cache "int8" its keys and values, which then take a quarter of
    the memory and bandwidth; weights "int16" or "int8" keeps what is not quantised, the codec included, in so many bits
    (the onnx backend; docs/backends.md says what each loses). lm_only reads the language model alone, for `Model.generator`:
    the folder needs no codec and no tokenizer then. compile (the torch backend): sessions fuse their frames with torch.compile,
    which takes minutes for a large model; it rounds less often, so a token may, seldom, be another one. Raises ClearlineError
    with what is wrong with the folder.
    """
    if quantize is not None and quantize not in BITS:
        raise ConfigError(f"quantize is {quantize!r}; known: {', '.join(BITS)}, or None for none")
    for option, value in (("lm_only", lm_only), ("compile", compile)):
        if not isinstance(value, bool):
            raise ConfigError(f"{option} is {value!r}; it is True or False")
    checkpoint = open_checkpoint(model_folder(path_or_name), lm_only)
    if quantize is not None and checkpoint.lm_bytes >= _CACHED_FROM_BYTES:
        checkpoint = cached(checkpoint, quantize)
    lm = _backend(backend, Wanted(threads, device, dtype, cache, weights, compile), checkpoint.lm_bytes)
    if lm_only:
        _refuse_compiled(lm, "a language model alone")
    free = getattr(lm, "free_bytes", None)  # only of backends with a memory of their own
    if free is not None:
        shapes = mimi_weights(checkpoint.mimi_config)
        check_memory(checkpoint.config.lm, shapes, lm.device, lm.dtype, quantize, free(), checkpoint.lm_bytes)
    codec = _codec_backend(lm, Wanted(threads, weights=weights, compile=getattr(lm, "compiles", False)), cache)
    return Model(checkpoint, lm, quantize, codec, cache, weights, lm_only)


def load_codec(
    path_or_name: str | Path = "nano",
    *,
    backend: str = DEFAULT_BACKEND,
    threads: int | None = None,
    device: str | None = None,
    weights: str | None = None,
) -> Codec:
    """Load only the Mimi codec: of a model folder, of "nano", or alone, as a folder or a file.

    weights: as in `load`.

    A lone codec has the released shape, or that of the config.json or mimi_config.json beside it, transformers' or Kyutai's.
    """
    config, tensors = read_mimi(model_folder(path_or_name))
    # A codec alone is a small model: "auto" leaves it to the CPU.
    wanted = Wanted(threads, device, weights=weights)
    opened = _backend(backend, wanted, 0)
    _refuse_compiled(opened, "a codec alone")
    return Codec(config, _codec_backend(opened, wanted), dict(tensors))


def model_folder(path_or_name: str | Path) -> Path:
    """Where a model lies: "nano", a path, or `owner/model` on the Hugging Face hub, downloaded when it is not here."""
    if str(path_or_name) == "":  # to pathlib, the current folder
        raise ConfigError("the model's name is empty; give nano, a folder, or owner/model")
    return nano_folder() if str(path_or_name) == "nano" else model_path(str(path_or_name))


def _backend(name: str, wanted: Wanted, model_bytes: int) -> Backend:
    whole = isinstance(wanted.threads, int) and not isinstance(wanted.threads, bool)
    if wanted.threads is not None and not (whole and 1 <= wanted.threads <= 1024):
        raise ConfigError(f"threads is {wanted.threads!r}; it must be a whole number in 1..1024")
    for option, value in (("backend", name), ("device", wanted.device), ("dtype", wanted.dtype)):
        if not isinstance(value, str) and (value is not None or option == "backend"):
            raise ConfigError(f"{option} is {value!r}; it is given by name, as a string")
    return open_backend(name, wanted, model_bytes)


def _refuse_compiled(backend: Backend, what: str) -> None:
    if getattr(backend, "compiles", False):
        raise ConfigError(f"what is compiled are the frames of sessions, which {what} has not: leave out --compile, or /compiled")


def _codec_backend(backend: Backend, wanted: Wanted, cache: str | None = None) -> Backend:
    """The same, in float32 where it computes or remembers in less: codes of a codec in half precision are other codes."""
    if backend.dtype in ("float32", "float64") and cache is None:
        return backend
    return open_backend(backend.name, replace(wanted, device=backend.device, dtype="float32"))


def nano_folder() -> Path:
    """Where the embedded model lies."""
    folder = Path(str(resources.files("clearline") / "nano"))
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"this installation lacks the embedded model: {folder} is not there")
    return folder
