"""The command line inside the test process: fast, and with the same `main`."""

import sys

import pytest
from helpers.command import Answer

from clearline.cli import main


@pytest.fixture
def clearline(capsys, monkeypatch):
    """clearline(*arguments) -> Answer."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["clearline", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = 0 if stop.code is None else int(stop.code)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run
