"""Live progress on standard error: frames done, speed as a multiple of real time, and the text so far."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

FRAME_SECONDS = 0.08
# What has been said is printed whole at the end; while it runs, its end has to fit the window.
_SHOWN_CHARACTERS = 500


class _Shown:
    """Something that is shown on a terminal while the `with` block runs; nothing when quiet or when standard error is none."""

    def __init__(self, display: Live | Progress, terminal: bool) -> None:
        self._terminal = terminal
        self._display = display

    def __enter__(self) -> Self:
        if self._terminal:
            self._display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._terminal:
            self._display.stop()


def _terminal(quiet: bool) -> bool:
    return sys.stderr.isatty() and not quiet


class RunProgress(_Shown):
    """Frames done and the text so far; where that is not shown, text goes to standard output as it comes."""

    def __init__(self, label: str, show_text: bool, quiet: bool) -> None:
        self._terminal = _terminal(quiet)
        self._print_text = show_text and not (self._terminal and sys.stdout.isatty())
        columns = (TextColumn(label), BarColumn(), TextColumn("{task.fields[count]}"), TextColumn("{task.fields[speed]}"))
        console = Console(stderr=True)
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
        self._task = self._bar.add_task(label, total=None, count="", speed="")
        self._said = Text()
        self._begun = False
        live = Live(Group(self._said, self._bar), console=console, refresh_per_second=10, transient=True)
        super().__init__(live, self._terminal)
        self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if self._print_text and self._begun:
            print(flush=True)

    def prompt(self, done: int, total: int) -> None:
        """A step of the system prompt is done; the clock starts after the last."""
        if self._terminal:
            self._bar.update(self._task, completed=done, total=total, count=f"{done}/{total} frames of the system prompt")
        self._started = time.perf_counter()

    def frame(self, number: int, total: int | None, text: str = "") -> None:
        """Frame `number`, counted from 0, is done and added `text`; `total` is None while nobody knows it."""
        if not self._begun:
            text = text.lstrip()  # a first word brings the space before it
            self._begun = bool(text)
        if text and self._print_text:
            print(text, end="", flush=True)
        if self._terminal:
            self._show(number + 1, total, text)

    def _show(self, done: int, total: int | None, text: str) -> None:
        if text:
            self._said.plain = (self._said.plain + text)[-_SHOWN_CHARACTERS:]
        speed = done * FRAME_SECONDS / max(time.perf_counter() - self._started, 1e-9)
        count = f"{done} frames" if total is None else f"{done}/{total} frames"
        self._bar.update(self._task, completed=done, total=total, count=count, speed=f"{speed:.1f}x real time")


class Steps(_Shown):
    """Shows which of some named steps is going on, beginning with `first`."""

    def __init__(self, label: str, quiet: bool, first: str = "") -> None:
        self._bar = Progress(TextColumn(label), TextColumn("{task.description}"), console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(first)
        self._quiet = quiet
        super().__init__(self._bar, _terminal(quiet))

    def step(self, name: str) -> None:
        """`name` begins."""
        self._bar.update(self._task, description=name)

    def part(self, done: int, total: int) -> None:
        """`done` of `total` parts of a frame are compiled or captured; a log is told too, since one may take minutes."""
        name = f"preparing part {done + 1} of {total} of a frame"
        self.step(name)
        if not self._terminal and not self._quiet:
            print(name, file=sys.stderr, flush=True)


class Counted(_Shown):
    """A bar over things of which the number is known, with the newest one's name."""

    def __init__(self, label: str, quiet: bool) -> None:
        columns = (TextColumn(label), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} {task.description}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=1)
        super().__init__(self._bar, _terminal(quiet))

    def done(self, number: int, total: int, what: str) -> None:
        """Thing `number`, counted from 0, of `total` is done."""
        self._bar.update(self._task, completed=number + 1, total=total, description=what)
