"""Which implementations are installed in which of the user's environments."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clearline.errors import ClearlineError
from clearline.lab.adapters.peers import PEERS, Peer

VARIABLE = "CLEARLINE_PEERS"
_PROBE = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Installed:
    """A peer and the interpreter that has it; versions by package."""

    peer: Peer
    python: Path
    versions: dict[str, str]


def config_file() -> Path:
    """Where interpreters can be listed for good, one path a line."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "clearline" / "peers"


def interpreters() -> list[Path]:
    """This interpreter, those of $CLEARLINE_PEERS (interpreters or environments' folders, separated as in $PATH), and
    those of the configuration file. Raises ClearlineError for one that is not there."""
    named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    where = [VARIABLE] * len(named)
    if config_file().is_file():
        lines = [line.strip() for line in config_file().read_text().splitlines()]
        named += [line for line in lines if line and not line.startswith("#")]
        where += [str(config_file())] * (len(named) - len(where))
    found = [Path(sys.executable)]
    for name, source in zip(named, where, strict=True):
        path = Path(name).expanduser()
        candidates = [path / "bin" / "python", path / "Scripts" / "python.exe"] if path.is_dir() else [path]
        python = next((candidate for candidate in candidates if candidate.is_file()), None)
        if python is None:
            raise ClearlineError(f"{source} names {name}, which is neither a Python interpreter nor an environment's folder")
        if python not in found:
            found.append(python)
    return found


def find_peers() -> list[Installed]:
    """Every peer in every interpreter that has it."""
    wanted = sorted({package for peer in PEERS.values() for package in peer.packages})
    out = []
    for python in interpreters():
        versions = _versions(python, wanted)
        for peer in PEERS.values():
            if all(package in versions for package in peer.packages):
                out.append(Installed(peer, python, {package: versions[package] for package in peer.packages}))
    return out


def _versions(python: Path, packages: list[str]) -> dict[str, str]:
    command = [str(python), "-c", _PROBE, json.dumps(packages)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if answer.returncode:
            raise ClearlineError(f"{python} does not run: {answer.stderr.strip().splitlines()[-1:]}")
        found: dict[str, str] = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise ClearlineError(f"{python} does not run: {error}") from error
    return found
