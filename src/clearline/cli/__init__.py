"""The command line: arguments and printing, nothing else. One file per command."""

import sys

from clearline.errors import ClearlineError


def main() -> None:
    """Run the `clearline` command: 0 on success, 2 on anything the user can mend, 130 when interrupted."""
    from clearline.cli.commands import app

    try:
        app()
    except ClearlineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`clearline ... | head`): not an error of ours.
        sys.stderr.close()
        sys.exit(0)
