"""`clearline peers`: which other implementations can be run beside this one."""

from typing import Any

import typer

from clearline.cli.as_json import print_json
from clearline.cli.options import JsonOption


def peers(json_output: JsonOption = False) -> None:
    """List other implementations of these models, where each is installed, and how to install those that are not.

    CLEARLINE_PEERS names interpreters or environments' folders, separated as in PATH.
    """
    from clearline.lab.adapters import PEERS, find_peers

    found = find_peers()
    rows: list[dict[str, Any]] = [
        {
            "name": peer.name,
            "what": peer.note,
            "compares": "language model and codec"
            if peer.preset and not peer.needs_codes
            else "language model"
            if peer.preset
            else "codec",
            "installed": [{"python": str(item.python), "versions": item.versions} for item in found if item.peer == peer],
            "install": peer.install,
        }
        for peer in PEERS.values()
    ]
    if json_output:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['name']:<16} {row['compares']}: {row['what']}")
        for item in row["installed"]:
            versions = ", ".join(f"{name} {version}" for name, version in item["versions"].items())
            typer.echo(f"    installed: {item['python']} ({versions})")
        if not row["installed"]:
            typer.echo(f"    not found; in an environment that CLEARLINE_PEERS names: {row['install']}")
