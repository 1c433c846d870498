"""What a report is made of, and the file it becomes: text, tables and figures in sections, in one HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clearline.app import code_version
from clearline.audio import check_writable, write_atomically

Tone = Literal["good", "bad", "unsure", "plain"]


@dataclass(frozen=True)
class Table:
    """Rows of text under column heads; no heads makes the first column one."""

    rows: Sequence[Sequence[str]]
    heads: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A picture with its caption. body: HTML without scripts or outside references, as `figures` draws it."""

    body: Markup
    caption: str
    name: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what is under it: paragraphs, then figures (beside each other where there is room), then tables."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Report:
    """A page: what was asked, the answer (`verdict`, in the colour of `tone`) with its sentence of evidence, and the sections."""

    title: str
    verdict: str
    evidence: str
    tone: Tone = "plain"
    sections: Sequence[Section] = field(default_factory=tuple)


def render(report: Report) -> str:
    """The page as HTML; every text is escaped."""
    environment = Environment(
        loader=PackageLoader("clearline.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(report=report, version=code_version())


def write_report(path: Path, report: Report) -> None:
    """Write the page whole or not at all. Raises ClearlineError when the file cannot be written."""
    check_writable(path)
    write_atomically(path, render(report).encode())
