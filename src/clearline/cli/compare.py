"""`clearline compare`: where two runs part, and why."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import HtmlOption, JsonOption
from clearline.cli.progress import Steps
from clearline.errors import ClearlineError, ConfigError

if TYPE_CHECKING:
    from clearline.lab.compare import Comparison
    from clearline.lab.live import Live


def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="A trace, codes (.npy, .safetensors, .json), a log, a recording; or run:BACKEND[@PRESET], run:codec, peer:NAME."
        ),
    ],
    b: Annotated[str | None, typer.Argument(help="The other side; with --peers, A is a recording and B is left out.")] = None,
    input: Annotated[Path | None, typer.Option("--input", "-i", help="The recording that run: and peer: sides hear.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="For run: and peer: (nano unless given); for files: force their tokens through it."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Settings of run: sides that name none.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Compare Clearline with every installed implementation on recording A.")
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest relative difference of numbers that is rounding; 1e-4 by default.", min=0)
    ] = None,
    frames: Annotated[int | None, typer.Option(help="How many frames of the input to run; 250 by default.", min=1)] = None,
    model_b: Annotated[
        str | None, typer.Option("--model-b", help="B's model, when it is not A's: a converted or quantised copy, say.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="Compare every layer of the last step too when nothing differs (run:, peer:moshi, peer:moshi_mlx)."
        ),
    ] = False,
    backends: Annotated[
        str | None, typer.Option("--backends", help="Run recording A on each of these, as onnx,torch,torch/bfloat16,numpy64.")
    ] = None,
    html: HtmlOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare two runs: the first divergence and its kind. Exit code 0: equal, or equal but for rounding; 1: different;
    3: cannot be told from what was recorded; 2: an error."""
    from clearline.app import load
    from clearline.config import preset as named_preset
    from clearline.lab.compare import ROUNDING, compare_sides
    from clearline.lab.live import FRAMES, Live, check_side, is_live, open_side

    settings = None if preset is None else named_preset(preset)
    frames_run = frames or FRAMES
    rounding = ROUNDING if tolerance is None else tolerance
    if peers or backends is not None:
        flag = "--peers" if peers else "--backends"
        if b is not None or input is not None or model_b is not None or (peers and backends is not None):
            raise ConfigError(f"{flag} takes one recording and nothing else to compare")
        if backends is not None and layers:
            raise ConfigError("--layers looks into two sides: compare run:BACKEND run:BACKEND --input FILE --layers")
        if backends is not None and tolerance is not None:
            raise ConfigError("--tolerance is for numbers; --backends compares tokens, and says how far the logits are apart")
        alone = Live(Path(a), model or "nano", settings, frames_run)
        if backends is None:
            _peers(alone, rounding, layers, html, json_output)
        else:
            from clearline.cli.compare_backends import compare_backends

            compare_backends(backends, alone, html, json_output)
    if b is None:
        raise ConfigError("compare needs two sides, --peers, or --backends")
    if not is_live(a) and not is_live(b) and (input is not None or settings is not None or frames is not None):
        raise ConfigError(f"--input, --preset and --frames are for a side that is run now (run:, peer:); {a} and {b} are files")
    live = None if input is None else Live(input, model or "nano", settings, frames_run)
    if model_b is not None and not is_live(b):
        raise ConfigError(f"--model-b is for a side that is run now (run:, peer:), not for {b}")
    live_b = live if live is None or model_b is None else replace(live, model=model_b)
    for name, heard in ((a, live), (b, live_b)):
        check_side(name, heard)
    with Steps("compare", quiet=json_output) as progress:
        sides = [open_side(name, heard and replace(heard, on_step=progress.step)) for name, heard in ((a, live), (b, live_b))]
        judge = None
        if model is not None and not any(side.model is not None for side in sides) and not any(is_live(name) for name in (a, b)):
            judge = load(model)
        progress.step("beside each other")
        found = compare_sides(sides[0], sides[1], rounding, judge, layers)
    name_b = b if model_b is None else f"{b} of {model_b}"
    if html is not None:
        from clearline.lab.report import compare_report, write_report

        shown_with = live.model if live is not None else model
        write_report(html, compare_report(found, (a, sides[0].trace), (name_b, sides[1].trace), shown_with, rounding))
        typer.echo(f"wrote {html}", err=True)
    if json_output:
        print_json(report(found, a, name_b) | origin(a=a, b=b, input=input))
    else:
        _print(found, a, name_b)
    sys.exit(_code(found))


def _code(found: "Comparison") -> int:
    return 0 if found.equal else 3 if found.kind == "undecided" else 1


def _peers(live: "Live", tolerance: float, layers: bool, html: Path | None, json_output: bool) -> NoReturn:
    from clearline.lab.adapters import PEERS, find_peers
    from clearline.lab.compare import compare_peer

    names = dict.fromkeys(found.peer.name for found in find_peers())
    if not names:
        raise ClearlineError("no other implementation is installed in the environments of CLEARLINE_PEERS; see `clearline peers`")
    reports: list[dict[str, Any]] = []
    ran: dict[str, Comparison] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            with Steps("compare", quiet=json_output) as progress:
                found = compare_peer(PEERS[name], replace(live, on_step=progress.step), tolerance, layers)
        except ClearlineError as error:
            failed[name] = str(error)
            reports.append({"b": f"peer:{name}", "could_not_run": str(error)})
            if not json_output:
                typer.echo(f"{name}: could not run: {error}\n")
            continue
        ran[name] = found
        reports.append(report(found, "clearline", f"peer:{name}"))
        if not json_output:
            _print(found, "clearline", f"peer:{name}")
            typer.echo()
    if json_output:
        print_json([row | origin(input=live.input) for row in reports])
    if not ran:
        raise ClearlineError("no other implementation could run this model")
    if html is not None:
        from clearline.lab.report import peers_report, write_report

        write_report(html, peers_report(live.input.name, ran, failed, tolerance))
        typer.echo(f"wrote {html}", err=True)
    sys.exit(max((_code(found) for found in ran.values()), key=(0, 3, 1).index))


def report(found: "Comparison", a: str, b: str) -> dict[str, Any]:
    """A comparison as JSON."""
    return {"a": a, "b": b, "equal": found.equal} | asdict(found)


def _print(found: "Comparison", a: str, b: str) -> None:
    from clearline.lab.compare import describe

    typer.echo(f"A: {a}\nB: {b}\n{found.kind.upper()}: {found.why}")
    for boundary, shares in found.agreement.items():
        if any(share < 1 for share in shares):
            typer.echo(f"  {boundary} equal: {' '.join(f'{share:.0%}' for share in shares)}")
    for boundary, relation in found.relations.items():
        for finding in relation.findings:
            typer.echo(f"  {boundary}: {finding}")
    if found.sound is not None and not found.equal:
        typer.echo(f"  pcm_out: {found.sound.finding}")
    for layers in found.layers:
        typer.echo(f"  {layers.finding}")
    if found.other_facts and not found.equal:
        typer.echo(f"  differing facts: {', '.join(found.other_facts)}")
    for side, errors in found.forced_error.items():
        listed = ", ".join(f"{boundary} {error:.1e}" for boundary, error in errors.items())
        typer.echo(f"  {side}'s logits against the other's model along {side}'s tokens: {listed} of the largest value at most")
    for side, judged in found.judgements.items():
        odd = [judgement for judgement in judged if not judgement.plausible]
        fits = "are what the model draws under their settings" if not odd else "are not the model's:"
        typer.echo(f"  {side}'s tokens {fits}")
        for judgement in odd:
            typer.echo(f"    {judgement.stream}: {describe(judgement)}")
    for note in found.notes:
        typer.echo(f"  note: {note}")
