"""moshi_mlx run live past 4096 frames, where it is installed beside MLX and Clearline."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "oracle" / "mlx_past_the_wrap.py"


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.skipif(find_spec("moshi_mlx") is None or find_spec("mlx") is None, reason="moshi_mlx is not installed")
def test_moshi_mlx_garbles_past_4096_frames_and_clearline_does_not():
    """The script exits with 1 unless only moshi_mlx's rotating cache goes wrong, and that from frame 4096 on."""
    found = subprocess.run([sys.executable, str(SCRIPT), "--steps", "4150"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "only moshi_mlx's rotating cache goes wrong" in found.stdout
