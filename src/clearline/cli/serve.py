"""`clearline serve`: conversations over the network, and a web page to hold them with."""

import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearline.backends import Wanted
from clearline.cli.options import BackendOption, DeviceOption, DtypeOption, ModelOption, ThreadsOption
from clearline.cli.progress import Steps
from clearline.errors import ConfigError

if TYPE_CHECKING:
    from clearline.app import Model
    from clearline.server.hub import Hub

# Below this size of the language model, one thread a step and a step on every core is the faster way round.
_SMALL_MODEL_BYTES = 200_000_000


def serve(
    model: ModelOption = "nano",
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
    preset: Annotated[str | None, typer.Option(help="Settings of conversations that ask for none.")] = None,
    max_sessions: Annotated[int | None, typer.Option(min=1, help="At most so many at once; else what the speed allows.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0.01, help="End conversations that last longer.")] = None,
    drain_seconds: Annotated[float, typer.Option(min=0, help="What conversations get to finish when the server stops.")] = 30.0,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Step so many conversations together (--backend torch); as many may be open."),
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
    from clearline.server.access import Access
    from clearline.server.limits import Limits
    from clearline.server.logs import set_up
    from clearline.server.run import Options, bind
    from clearline.server.run import serve as run_server

    access = Access.checked(host, token, allow_origin or [])
    limits = Limits(
        sessions=max_sessions, session_seconds=None if max_minutes is None else max_minutes * 60, drain_seconds=drain_seconds
    )  # fmt: skip
    if preset is not None:
        from clearline.config import preset as named

        named(preset)
    tls, fingerprint = _tls(host, tls_cert, tls_key, tls_self_signed)
    set_up(log_level)
    if batch is not None and workers is not None:
        raise ConfigError("--batch steps its conversations together: --workers has no meaning beside it")
    with bind(host, port) as listener, ExitStack() as starting:
        steps = starting.enter_context(Steps("serve", quiet=False))
        steps.step(f"loading {model}")
        loaded, at_once = _loaded(model, Wanted(threads, device, dtype), backend, quantize, workers)
        steps.step("measuring how long a frame takes here")

        def started(address: str, hub: "Hub") -> None:
            starting.close()
            slow = "" if hub.capacity.keeps_up else "; SLOWER THAN REAL TIME on this machine"
            typer.echo(
                f"clearline serves {model} at {address} ({1000 * hub.capacity.step_seconds:.1f} ms a frame of 80, "
                f"room for {hub.room} at once{slow})"
            )
            if fingerprint:
                typer.echo(f"certificate: self-signed, SHA-256 {fingerprint}")
            if token is not None:
                typer.echo("open the page with #token=... behind the address, or enter the token there")

        options = Options(host, access, limits, at_once, preset, tls, batch)
        run_server(listener, loaded, Path(model).name, options, started)


def _tls(host: str, certificate: Path | None, key: Path | None, sign: bool) -> tuple[ssl.SSLContext | None, str]:
    from clearline.server.tls import from_files, self_signed

    if (certificate is None) != (key is None):
        raise ConfigError("--tls-cert and --tls-key go together")
    if certificate is not None and key is not None:
        if sign:
            raise ConfigError("--tls-self-signed makes a certificate of its own: leave out --tls-cert and --tls-key")
        return from_files(certificate, key), ""
    return self_signed(host) if sign else (None, "")


def _loaded(name: str, wanted: Wanted, backend: str, quantize: str | None, workers: int | None) -> tuple["Model", int]:
    """The model, and how many steps run at once: threads a step times steps at once is the number of cores."""
    import os

    from clearline.app import load, model_folder
    from clearline.checkpoint import open_checkpoint

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = wanted.threads
    if threads is None:
        small = open_checkpoint(model_folder(name)).lm_bytes < _SMALL_MODEL_BYTES
        threads = 1 if small else max(1, cores // (workers or 1))
    if workers is None:
        workers = max(1, cores // threads)
    loaded = load(
        name, backend=backend, quantize=quantize, threads=threads, device=wanted.device, dtype=wanted.dtype  # type: ignore[arg-type]
    )  # fmt: skip
    return loaded, workers
