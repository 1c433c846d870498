"""Models by their Hugging Face name: found where they were put by hand, or downloaded, resumed and verified by huggingface_hub."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from clearline.checkpoint.safetensors import file_hash
from clearline.errors import CheckpointError

_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
MODEL_CARDS = ("README.md", "MODEL_CARD.md")
# Everything a model folder may need, and no pickles.
_WANTED = ("*.json", "*.toml", "*.safetensors", "*.gguf", "*.model", "README.md", "LICENSE*")


def home() -> Path:
    """Where Clearline keeps what it downloads and converts: CLEARLINE_HOME, or the user's cache folder."""
    chosen = os.environ.get("CLEARLINE_HOME")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clearline"


def model_path(name: str, notice: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> Path:
    """The folder or file that `name` means: a path, or `owner/model` (`@revision`) on the hub.

    A folder CLEARLINE_HOME/models/owner--model is used without asking the hub. `notice` is told of downloads and licences.
    Raises CheckpointError with the manual steps when the hub cannot be used.
    """
    match = _NAME.fullmatch(name)
    if Path(name).exists() or match is None:
        return Path(name)
    repository, revision = match["repository"], match["revision"]
    by_hand = home() / "models" / repository.replace("/", "--")
    if by_hand.is_dir():
        return by_hand
    return _download(repository, revision, list(_WANTED), by_hand, notice)


def hub_file(repository: str, name: str, notice: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> Path:
    """One file of another repository, as config.json may name it (hf://owner/model/file)."""
    by_hand = home() / "models" / repository.replace("/", "--")
    folder = by_hand if (by_hand / name).is_file() else _download(repository, None, [name, "README.md"], by_hand, notice)
    if not (folder / name).is_file():
        raise CheckpointError(f"there is no file {name} in {repository} on the hub")
    return folder / name


def _download(repository: str, revision: str | None, wanted: list[str], by_hand: Path, notice: Callable[[str], None]) -> Path:
    steps = (
        f"Either give the path of a folder, or download the files of https://huggingface.co/{repository} elsewhere and put "
        f"them into {by_hand}"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"there is no folder {repository}, and to download a model of that name huggingface_hub is needed "
            f"(pip install 'clearline[hub]'). {steps}"
        ) from None
    notice(f"looking for {repository} on the Hugging Face hub")
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, cache_dir=str(home() / "hub")))
    except Exception as error:  # its many kinds of errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{repository} cannot be had from the hub: {reason}\n{steps}") from error
    _verify(folder, notice)
    licence = licence_of(folder)
    notice(f"{repository}: licence {licence or 'not named by its model card'}")
    return folder


def licence_of(folder: Path) -> str | None:
    """The licence that a model card declares in its front matter."""
    for name in MODEL_CARDS:
        with suppress(OSError), (folder / name).open(encoding="utf-8", errors="replace") as file:
            match = re.search(r"^licen[sc]e:\s*(\S.*)$", file.read(1 << 14), re.MULTILINE)
            if match:
                return match[1].strip()
    return None


def _verify(folder: Path, notice: Callable[[str], None]) -> None:
    """Large files lie in the hub's cache under their sha256: held against their contents once, when new."""
    done = home() / "verified"
    done.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.rglob("*")):
        blob = path.resolve()
        if not path.is_file() or not re.fullmatch(r"[0-9a-f]{64}", blob.name) or (done / blob.name).exists():
            continue
        notice(f"checking {path.name}")
        if file_hash(blob) != blob.name:
            blob.unlink()
            raise CheckpointError(f"{path.name} did not arrive as it was sent (its sha256 differs) and was removed; try again")
        (done / blob.name).touch()
