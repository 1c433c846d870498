"""The list of commands."""

from typing import Annotated

import typer

from clearline.cli.codec import codec_app
from clearline.cli.presets import presets
from clearline.cli.run import run

app = typer.Typer(
    help="Run Moshi, Mimi and their siblings on any machine, and prove that what comes out is right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from clearline.app import code_version

        typer.echo(f"clearline {code_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...


app.command()(run)
app.command()(presets)
app.add_typer(codec_app, name="codec")
