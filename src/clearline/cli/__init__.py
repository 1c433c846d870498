"""The command line: arguments and printing, nothing else. One file per command."""

import io
import sys

from clearline.errors import ClearlineError

_INTERRUPTED = 130


def main() -> None:
    """Run the `clearline` command: 0 on success, 2 on anything the user can mend, 130 when interrupted."""
    from clearline.cli.commands import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end the run
    try:
        app(prog_name="clearline")  # also under `python -m clearline`
    except ClearlineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # which typer makes of Ctrl-C, without a word
            print("interrupted", file=sys.stderr)
        if isinstance(stop.__context__, BrokenPipeError):
            # The reader of our output went away (`clearline ... | head`): not an error of ours, and no finding either.
            sys.exit(0)
        raise
