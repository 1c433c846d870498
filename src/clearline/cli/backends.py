"""`clearline backends`: what runs on this machine, what would be used, how fast it is."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline.cli.as_json import origin, print_json
from clearline.cli.options import DeviceOption, JsonOption, ModelOption
from clearline.cli.progress import RunProgress

if TYPE_CHECKING:
    from clearline.backends.choose import Choice
    from clearline.lab.backends import Survey


def backends(
    model: ModelOption = "nano",
    device: DeviceOption = None,
    frames: Annotated[int, typer.Option(min=0, max=10_000, help="Frames to time on each; 0 only tests the operations.")] = 20,
    json_output: JsonOption = False,
) -> None:
    """Show the backends: installed or not, every operation tested, speed, which one is taken for what, and why."""
    from clearline.app import model_folder
    from clearline.backends.choose import KINDS, choose
    from clearline.checkpoint import open_checkpoint
    from clearline.lab.backends import WARM_UP, survey

    size = open_checkpoint(model_folder(model)).lm_bytes
    chosen = {model: choose(size, device), "a large model": choose(None, device)}
    names = [name for name in KINDS if device in (None, "cpu") or name == chosen["a large model"].name]
    found = []
    for name in names:
        with RunProgress(name, show_text=False, quiet=json_output) as progress:
            found.append(survey(name, model, frames, device, lambda i, bar=progress: bar.frame(i, frames + WARM_UP)))  # type: ignore[misc]
    if json_output:
        print_json(_report(found, chosen) | origin())
        return
    for one in found:
        _print(one, model)
    unusable = {one.name for one in found if not one.usable}
    for what, choice in chosen.items():
        where = f"{choice.name}{'' if choice.device is None else ' on ' + choice.device}"
        typer.echo(f"for {what}: {where} ({choice.why}){', WHICH CANNOT BE USED HERE' if choice.name in unusable else ''}")
    if faster := _faster(found, chosen[model]):
        typer.echo(faster)


def _print(one: "Survey", model: str) -> None:
    if one.missing:
        typer.echo(f"{one.name:<8} {one.about}: not installed ({one.missing})")
        return
    if one.fault:
        typer.echo(f"{one.name:<8} {one.about}: CANNOT BE USED: {one.fault}")
    else:
        speed = (
            "not timed"
            if math.isnan(one.frame_ms)
            else f"{model}: {one.frame_ms:.1f} ms a frame, {80 / one.frame_ms:.1f}x real time"
        )
        typer.echo(f"{one.name:<8} {one.about}: {one.device}, {one.dtype}; {one.operations} operations right; {speed}")
    for device in one.devices:
        typer.echo(f"{'':<8}   {device.name}: {device.about}{': cannot be used: ' + device.fault if device.fault else ''}")


def _faster(found: "list[Survey]", chosen: "Choice") -> str:
    """A word when another backend was measured to be faster than the one that is taken."""
    timed = {one.name: one for one in found if one.usable and not math.isnan(one.frame_ms)}
    best = min(timed.values(), key=lambda one: one.frame_ms, default=None)
    if best is None or chosen.name not in timed or best.frame_ms >= 0.9 * timed[chosen.name].frame_ms:
        return ""
    return f"faster here: --backend {best.name} ({best.frame_ms:.1f} ms against {timed[chosen.name].frame_ms:.1f})"


def _report(found: "list[Survey]", chosen: "dict[str, Choice]") -> dict[str, Any]:
    def numbers(one: "Survey") -> dict[str, Any]:
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(one).items()}

    return {
        "backends": [numbers(one) | {"installed": not one.missing, "usable": one.usable} for one in found],
        "chosen": {what: asdict(choice) for what, choice in chosen.items()},
        "faster": _faster(found, next(iter(chosen.values()))) or None,
    }
