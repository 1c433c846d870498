"""The command line as a user meets it: arguments in; exit code, standard output and standard error out."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import clearline


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def command(*arguments: object, folder: Path | None = None, prelude: str = "", **environment: str) -> Answer:
    """Run `clearline ARGUMENTS` in a process of its own; `prelude` is Python that runs there first."""
    code = f"{prelude}\nimport sys\nfrom clearline.cli import main\nsys.argv[0] = 'clearline'\nmain()\n"
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(clearline.__file__).parents[1]), "COLUMNS": "200"} | environment,
        timeout=300,
    )
    return Answer(found.returncode, found.stdout, found.stderr)
