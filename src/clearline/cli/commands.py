"""The list of commands."""

from typing import Annotated

import typer

from clearline.cli.align import align
from clearline.cli.audit import audit
from clearline.cli.backends import backends
from clearline.cli.bench import bench
from clearline.cli.bugreport import bugreport
from clearline.cli.chat import chat
from clearline.cli.codec import codec_app
from clearline.cli.compare import compare
from clearline.cli.convert import convert
from clearline.cli.doctor import doctor
from clearline.cli.duplex import duplex
from clearline.cli.faults import faults
from clearline.cli.inspect import inspect
from clearline.cli.judge import judge
from clearline.cli.peers import peers
from clearline.cli.presets import presets
from clearline.cli.report import report
from clearline.cli.run import run
from clearline.cli.serve import serve
from clearline.cli.tokens import tokens
from clearline.cli.trials import trials

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
app.command()(bench)
app.command()(backends)
app.command()(presets)
app.command()(inspect)
app.command()(audit)
app.command()(convert)
app.command()(compare)
app.command()(align)
app.command()(judge)
app.command()(tokens)
app.command()(trials)
app.command()(duplex)
app.command()(doctor)
app.command()(faults)
app.command()(bugreport)
app.command()(report)
app.command()(peers)
app.command()(serve)
app.command()(chat)
app.add_typer(codec_app, name="codec")
