"""The live line of a conversation: levels, lag, missed deadlines; the text goes to standard output."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from clearline.server.chat import Moment

_WIDTH = 12
_FLOOR_DB = -60.0


class Meters:
    """Shows the line only where standard error is a terminal; the text comes to standard output in any case."""

    def __init__(self) -> None:
        self.muted = False
        self._live = Live(console=Console(stderr=True), refresh_per_second=12, transient=True)
        self._terminal = sys.stderr.isatty()
        self._said = ""

    def __enter__(self) -> "Meters":
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._terminal:
            self._live.stop()
            print(self._said.strip(), flush=True)
        elif self._said:
            print(flush=True)

    def note(self, message: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._live.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def show(self, moment: "Moment") -> None:
        """One frame has been answered."""
        text = moment.text if self._said else moment.text.lstrip()
        self._said += text
        if not self._terminal:
            print(text, end="", flush=True)
            return
        you = "muted".ljust(_WIDTH) if self.muted else _bar(moment.heard_db)
        line = f"you {you} model {_bar(moment.said_db)} lag {moment.lag * 1000:4.0f} ms"
        line += f"  late {moment.missed}  ran dry {moment.underruns}"
        self._live.update(Text(f"{self._said[-400:]}\n{line}"))


def _bar(db: float) -> str:
    filled = round(_WIDTH * min(1.0, max(0.0, 1 - db / _FLOOR_DB)))
    return "█" * filled + "·" * (_WIDTH - filled)
