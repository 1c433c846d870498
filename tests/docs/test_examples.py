"""The code blocks of README.md and docs/ run, in order, as one program each; the shell blocks as the command line.

A block that cannot run here is fenced as ```python notest; such a shell line ends in `# not run here`. What a command printed is
fenced as `console` (benchmarks/replay.py), with a longer fence where there are fences in it.
"""

import re
import shlex
from pathlib import Path

import pytest
from helpers.command import command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEST_COMMAND = "pip install '.[test]' && pytest"


def blocks(page: Path, language: str) -> list[str]:
    """Those of a language (all that follows the fence), not those quoted inside of others."""
    fences = re.findall(r"^(`{3,})([^`\n]*)\n(.*?)^\1$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for _, found, block in fences if found == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_closed(page):
    """A block that ends at a fence quoted in it leaves its rest behind as text."""
    outside = re.sub(r"^(`{3,})([^`\n]*)\n(.*?)^\1$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert "```" not in outside


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the examples in it, where the blocks may write."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks(page, workplace):
    program = "\n".join(blocks(page, "python"))
    exec(compile(program, page.name, "exec"), {"__name__": "__main__"})


def commands(page: Path) -> list[str]:
    """Lines that begin with `clearline`, also behind an `&&`; not those marked "not run here"."""
    lines = [part.strip() for block in blocks(page, "sh") for line in block.splitlines() for part in line.split("&&")]
    return [line for line in lines if line.startswith("clearline ") and "# not run here" not in line]


def test_shell_blocks(workplace):
    found = [line for page in PAGES for line in commands(page)]
    assert "clearline run examples/hello.wav -o reply.wav" in found
    for line in found:
        answer = command(*shlex.split(line)[1:], folder=workplace)
        assert answer.code == 0, f"{line}\n{answer.err}"
    assert (workplace / "reply.wav").stat().st_size > 50_000


def test_links_lead_somewhere():
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_first_screen_has_one_command_to_run_and_one_to_test():
    first, second, *_ = blocks(ROOT / "README.md", "sh")
    assert first == "pip install . && clearline run examples/hello.wav -o reply.wav\n"
    assert second == TEST_COMMAND + "\n"
    assert "## " not in (ROOT / "README.md").read_text().partition(TEST_COMMAND)[0]


def test_ci_runs_the_same_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert any(line.startswith(TEST_COMMAND) for line in script.splitlines())
