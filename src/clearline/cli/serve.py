"""`clearline serve`: conversations over the network, and a web page to hold them with."""

import os
import re
import ssl
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.cli.options import BackendOption, CompileOption, DeviceOption, DtypeOption, ThreadsOption
from clearline.cli.progress import Steps
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.server.hub import Hub

# Below this size of the language model, one thread a step and a step on every core is the faster way round.
_SMALL_MODEL_BYTES = 200_000_000


def serve(
    model: Annotated[
        list[str], typer.Option("--model", "-m", help="nano, or a folder, or NAME=FOLDER; repeatable: clients choose by name.")
    ] = ["nano"],  # noqa: B006
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8998,
    token: Annotated[
        str | None, typer.Option(envvar="CLEARLINE_TOKEN", help="What clients must know (better in CLEARLINE_TOKEN than here).")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Another site whose pages may connect, as https://example.org; repeatable.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM, without a password.")] = None,
    tls_self_signed: Annotated[bool, typer.Option("--tls-self-signed", help="Make a certificate; browsers will warn.")] = False,
    twilio_signed: Annotated[
        bool, typer.Option("--twilio-signed", help="Refuse calls that Twilio has not signed; needs TWILIO_AUTH_TOKEN.")
    ] = False,
    preset: Annotated[str | None, typer.Option(help="Settings of conversations that ask for none.")] = None,
    max_sessions: Annotated[int | None, typer.Option(min=1, help="At most so many at once; else what the speed allows.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0.01, help="End conversations that last longer.")] = None,
    drain_seconds: Annotated[float, typer.Option(min=0, help="What conversations get to finish when the server stops.")] = 30.0,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    compile: CompileOption = False,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Step so many conversations together (--backend torch); as many may be open. On CUDA 8 by default.",
        ),
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="q8 or q4: round the language model's weights.")] = None,
    threads: ThreadsOption = None,
    workers: Annotated[int | None, typer.Option(min=1, max=1024, help="Steps at once; by default as the cores allow.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve conversations to a web page, simple clients, and those of Kyutai, OpenAI and Twilio. Ctrl-C drains, twice stops."""
    from clearline.server import require

    require()
    if log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"the log level is {log_level!r}; known: debug, info, warning, error")
    # What can be wrong without the model is looked at before the model is read.
    from clearline.app import load
    from clearline.server.access import Access
    from clearline.server.limits import Limits
    from clearline.server.logs import set_up
    from clearline.server.run import CARD_BATCH, Options, bind, own_batch
    from clearline.server.run import serve as run_server

    access = Access.checked(host, token, allow_origin or [], _twilio_auth_token() if twilio_signed else None)
    folders = named_folders(model)
    limits = Limits(
        sessions=max_sessions, session_seconds=None if max_minutes is None else max_minutes * 60, drain_seconds=drain_seconds
    )  # fmt: skip
    if preset is not None:
        from clearline.config import preset as named

        named(preset)
    tls, fingerprint = _tls(host, tls_cert, tls_key, tls_self_signed)
    set_up(log_level)
    if batch is not None:
        backend = _batching(batch, backend, workers, max_sessions, len(folders))
    with bind(host, port) as listener, ExitStack() as starting:
        steps = starting.enter_context(Steps("serve", quiet=False))
        alone = batch is None and workers is None and len(folders) == 1
        threads, at_once = _shares(folders.values(), threads, workers)
        models = {}
        for name, folder in folders.items():
            steps.step(f"loading {folder}")
            models[name] = load(
                folder,
                backend=backend,
                quantize=quantize,  # type: ignore[arg-type]
                threads=threads,
                device=device,
                dtype=dtype,
                compile=compile,
            )
        steps.step("measuring how long a frame takes here")
        if alone:
            only = next(iter(models.values()))
            most = CARD_BATCH if only.backend.device.startswith("cuda") else at_once
            batch = own_batch(only, preset, max_sessions or most)

        def started(address: str, hub: "Hub") -> None:
            starting.close()
            for name, cost in hub.costs.items():
                begins = f"clearline serves {name} at {address}" if name == hub.default.name else f"  and {name}"
                slow = "" if cost.keeps_up else "; SLOWER THAN REAL TIME on this machine"
                if hub.room(name) < min(cost.lanes, max_sessions or cost.lanes):
                    slow += f": too slow for a batch of {cost.lanes}, a smaller --batch may hold more"
                frame = f"{1000 * cost.step_seconds:.1f} ms a frame of 80"
                typer.echo(f"{begins} ({frame}, room for {hub.room(name)} at once{slow})")
            if fingerprint:
                typer.echo(f"certificate: self-signed, SHA-256 {fingerprint}")
            if token is not None:
                typer.echo("open the page with #token=... behind the address, or enter the token there")

        options = Options(host, access, limits, at_once, preset, tls, batch)
        run_server(listener, models, options, started, steps.part)


def named_folders(models: list[str]) -> dict[str, str]:
    """What clients call each model, and where it is. Raises ConfigError for two of one name.

    Only a plain word before = is a name: a folder's path may hold that sign too.
    """
    named: dict[str, str] = {}
    for model in models:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)=(.+)", model)
        name, folder = match.groups() if match else (Path(model).name or Path(model).resolve().name, model)
        if name in named:
            raise ConfigError(f"two models are called {name!r}: name one of them otherwise, as --model OTHER={folder}")
        named[name] = folder
    return named


def _batching(batch: int, backend: str, workers: int | None, max_sessions: int | None, models: int) -> str:
    """The backend of a batch. Raises ConfigError for what does not go with one."""
    if workers is not None:
        raise ConfigError("--batch steps its conversations together: --workers has no meaning beside it")
    if models > 1:
        raise ConfigError("--batch steps one model: serve several without it, or each with a server of its own")
    if max_sessions is not None and max_sessions > batch:
        raise ConfigError(f"--batch {batch} has room for {batch} conversations, fewer than --max-sessions {max_sessions}")
    if backend.split("/")[0] not in ("auto", "torch"):
        raise ConfigError(f"--batch is for --backend torch; the backend that is asked for is {backend}")
    return "torch" + backend.removeprefix("auto") if backend.startswith("auto") else backend


def _twilio_auth_token() -> str:
    """From the environment: the arguments of a program can be read by everybody on its machine."""
    token = os.environ.get("TWILIO_AUTH_TOKEN", "")
    if not token:
        raise ConfigError("--twilio-signed needs the account's auth token in the environment variable TWILIO_AUTH_TOKEN")
    return token


def _tls(host: str, certificate: Path | None, key: Path | None, sign: bool) -> tuple[ssl.SSLContext | None, str]:
    from clearline.server.tls import from_files, self_signed

    if (certificate is None) != (key is None):
        raise ConfigError("--tls-cert and --tls-key go together")
    if certificate is not None and key is not None:
        if sign:
            raise ConfigError("--tls-self-signed makes a certificate of its own: leave out --tls-cert and --tls-key")
        return from_files(certificate, key), ""
    return self_signed(host) if sign else (None, "")


def _shares(folders: Iterable[str], threads: int | None, workers: int | None) -> tuple[int, int]:
    """Threads of a step, and how many steps run at once: one times the other is the number of cores."""
    from clearline.app import model_folder
    from clearline.checkpoint import open_checkpoint

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None:
        small = all(open_checkpoint(model_folder(folder)).lm_bytes < _SMALL_MODEL_BYTES for folder in folders)
        threads = 1 if small else max(1, cores // (workers or 1))
    # Less than one thread is refused where models are loaded.
    return threads, max(1, cores // max(1, threads)) if workers is None else workers
