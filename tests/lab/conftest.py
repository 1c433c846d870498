"""The command line inside the test process, as the tests of tests/cli have it."""

import sys

import pytest
import soundfile
from helpers.checkpoints import speech
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


@pytest.fixture
def hello(tmp_path):
    """A lively recording of ten frames."""
    path = tmp_path / "hello.wav"
    soundfile.write(path, speech(10), 24_000)
    return path
