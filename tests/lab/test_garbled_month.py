"""The page that replays the seeds: its commands exist, with the options it gives them, and each has an answer."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "garbled-month.md"
BLOCKS = [block for _, block in re.findall(r"^(`{3,})console\n(.*?)^\1$", PAGE.read_text(), re.MULTILINE | re.DOTALL)]
COMMANDS = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines() if line.startswith("$ clearline ")]


def test_all_five_documents_are_there():
    text = PAGE.read_text()
    for words in ("The first document", "The second document", "The third document", "The fourth document", "The fifth document"):
        assert text.count(f"## {words}") == 1
    # Claims of the seeds, and the commands that settle them.
    claims = (
        "8 against the default 32",
        "Candle Metal",
        "s2st-1b.toml",
        "v9.1",
        "programmatic API",
        "TopK",
        "Thanks for watching!",
    )
    assert all(words in text for words in claims)
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("name", sorted({shlex.split(command)[1] for command in COMMANDS}))
def test_the_options_exist(clearline, name):
    said = clearline(name, "--help").out
    mine = [shlex.split(command) for command in COMMANDS if shlex.split(command)[1] == name]
    used = {word for words in mine for word in words if word.startswith("--")}
    assert all(option in said for option in used), used
