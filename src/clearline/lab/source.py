"""Whatever holds tokens or sound, opened as a trace: trace files, logs, codes, recordings."""

from dataclasses import replace
from pathlib import Path

from clearline.errors import ClearlineError
from clearline.lab.logs import read_log
from clearline.lab.plain import read_plain, read_sound
from clearline.trace import Trace, read_trace
from clearline.trace.container import MAGIC

_PLAIN = (".npy", ".safetensors", ".json")
SOUND = (".wav", ".wave", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".caf")


def source_path(name: str) -> tuple[Path, int | None]:
    """The file that a source's name means, and which run of it: `LOG#2` is the second one of LOG."""
    path = Path(name)
    stem, _, tail = name.rpartition("#")
    if not path.exists() and tail.isdigit() and Path(stem).is_file():
        return Path(stem), int(tail)
    return path, None


def open_source(name: str) -> Trace:
    """A file as a trace, by its content or suffix; `LOG#2` is the second run of a log.

    Raises ClearlineError when it is missing or nothing of the kind.
    """
    path, number = source_path(name)
    if not path.is_file():
        raise ClearlineError(f"{name} does not exist or is not a file")
    with path.open("rb") as file:
        begin = file.read(len(MAGIC))
    if begin == MAGIC:
        trace = read_trace(path)
    elif path.suffix.lower() in _PLAIN:
        trace = read_plain(path)
    elif path.suffix.lower() in SOUND:
        trace = read_sound(path)
    else:
        trace = read_log(path, path.read_text(errors="replace"), number)
    if trace.steps == 0:
        raise ClearlineError(f"{name} holds no steps")
    return replace(trace, facts=dict(trace.facts) | {"name": name})
