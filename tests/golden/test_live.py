"""Kyutai's own package, run live beside Clearline where it is installed (see oracle/README.md)."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.checkpoints import BACKENDS

SCRIPT = Path(__file__).parents[2] / "oracle" / "compare_live.py"


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(find_spec("moshi") is None or find_spec("torch") is None, reason="the moshi package is not installed")
@pytest.mark.parametrize("backend", BACKENDS)
def test_fresh_random_checkpoints_of_every_shape(backend):
    """Other seeds than the goldens'; the script exits with 1 at the first mismatch it prints."""
    found = subprocess.run([sys.executable, str(SCRIPT), "--backend", backend], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "all agree" in found.stdout
