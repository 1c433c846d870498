"""Starts a peer in the oracle's environment and reads its JSON."""

import json
import os
import subprocess
from pathlib import Path

from timing import Times, summary

HERE = Path(__file__).parent
ORACLE = Path(os.environ.get("CLEARLINE_ORACLE", HERE.parents[1] / ".venv-oracle"))


def peer(script: str, *arguments: object) -> dict[str, Times] | str:
    """Times by part, or a sentence saying why there are none."""
    python = ORACLE / "bin" / "python"
    if not python.exists():
        return f"not measured: no environment at {ORACLE} (oracle/setup.sh makes it; CLEARLINE_ORACLE points elsewhere)"
    environment = os.environ | {"NO_TORCH_COMPILE": "1", "RAYON_NUM_THREADS": str(arguments[1])}
    done = subprocess.run(
        [python, HERE / script, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
    return {part: summary(values) for part, values in json.loads(done.stdout.splitlines()[-1]).items()}
