"""Runs the commands of a page's ```console blocks and writes down what they print.

    python benchmarks/replay.py docs/garbled-month.md            # rewrites the page
    python benchmarks/replay.py docs/garbled-month.md --check    # only says which answers changed

A line that begins with "$ " is a command, what follows it is what it printed, and "exit code N" where that is not 0. Commands
run in one folder, in order, which holds `examples/` and `questions.wav`: the examples one after the other. `$ # log A.trace
A.log` writes a trace down as MOSHI_DEBUG lines. Lines longer than the page are folded. An answer that is Markdown itself, with
fences in it, needs a block with a longer fence.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from clearline.audio import wav_bytes
from clearline.lab.faults.trial import joined
from clearline.trace import read_trace

ROOT = Path(__file__).parents[1]
WIDTH = 118
BLOCK = re.compile(r"^(`{3,})console\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    text = asked.page.read_text()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        new = BLOCK.sub(lambda found: f"{found[1]}console\n{replayed(found[2], folder)}{found[1]}", text)
    if asked.check:
        sys.exit(0 if new == text else "some answers changed")
    asked.page.write_text(new)


def prepare(folder: Path) -> None:
    (folder / "examples").symlink_to(ROOT / "examples")
    examples = sorted((ROOT / "examples").glob("*.wav"))
    both = joined([*examples, examples[0]])
    (folder / "questions.wav").write_bytes(wav_bytes(both.samples[:, 0], both.rate))


def replayed(block: str, folder: Path) -> str:
    """A block with every command's answer of now."""
    lines = []
    for line in block.splitlines():
        if line.startswith("$ "):
            lines += [line, *answer(line.removeprefix("$ "), folder)]
            print(line, file=sys.stderr)
    return "\n".join(lines) + "\n"


def answer(command: str, folder: Path) -> list[str]:
    arguments = shlex.split(command, comments=False)
    if arguments[:2] == ["#", "log"]:
        write_log(folder / arguments[2], folder / arguments[3])
        return []
    arguments = [str(Path(sys.executable).parent / "clearline"), *arguments[1:]] if arguments[0] == "clearline" else arguments
    found = subprocess.run(arguments, capture_output=True, text=True, cwd=folder)
    said = found.stdout if found.returncode != 2 else found.stderr
    out = [part for line in said.rstrip().splitlines() for part in fold(line)]
    return out + ([f"exit code {found.returncode}"] if found.returncode else [])


def fold(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent + "  ", break_long_words=False, drop_whitespace=True) or [""]


def write_log(trace: Path, log: Path) -> None:
    """codes_out and the text of a trace as the lines that seed 004 proposed to log."""
    columns = read_trace(trace).columns
    rows = []
    for step, (codes, text) in enumerate(zip(columns["codes_out"], columns["text_token"], strict=True)):
        rows.append(f"INFO MOSHI_DEBUG: Step {step} audio tokens: {[int(code) if code >= 0 else 2**32 - 1 for code in codes]}")
        rows.append(f"INFO MOSHI_DEBUG: Step {step} text token: {int(text)}")
    log.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
