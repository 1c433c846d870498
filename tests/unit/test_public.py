"""The package as it is imported: its public names, and what importing it costs."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clearline


def test_every_public_name_is_there():
    for name in clearline.__all__:
        assert getattr(clearline, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = clearline.nonsense


def test_importing_it_loads_nothing_heavy():
    """Names are imported at first use, so `clearline --help` and scripts start at once."""
    code = "import sys, clearline; print(*(m for m in ('numpy', 'onnxruntime', 'soundfile', 'typer') if m in sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(clearline.__file__).parents[1])}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (found.stdout.strip(), found.stderr) == ("", "")


def test_errors_have_one_base():
    from clearline import errors

    for name, kind in vars(errors).items():
        if isinstance(kind, type):
            assert issubclass(kind, errors.ClearlineError), name


def test_docstring_examples():
    assert doctest.testmod(clearline).failed == 0
