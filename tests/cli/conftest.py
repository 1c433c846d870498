"""The command line inside the test process: fast, and with the same `main`."""

import signal
import sys

import pytest
from helpers.command import Answer

from clearline.cli import main


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A shell that starts the tests in the background has Ctrl-C ignored, and they would wait for its effect for ever."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
