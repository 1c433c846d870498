"""A server from start to end: load, measure, listen, drain, stop."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FrameType

import uvicorn

from clearline.app import Model
from clearline.errors import ConfigError
from clearline.generate.lanes import lane_bytes
from clearline.server.access import Access
from clearline.server.app import Serving, build
from clearline.server.hub import Hub
from clearline.server.limits import Limits
from clearline.server.logs import event
from clearline.server.metrics import Metrics
from clearline.server.offer import Offer
from clearline.server.sockets import PatientHttp, PatientWebSocket

RECEIVE_BUFFER = 65_536


# Conversations that a card steps together where nobody says how many.
CARD_BATCH = 8


@dataclass(frozen=True)
class Options:
    """How to serve. host: what the address says (the listening socket decides); batch: so many conversations at most, stepped
    together on one device."""

    host: str
    access: Access
    limits: Limits
    workers: int
    preset: str | None = None
    tls: ssl.SSLContext | None = None
    batch: int | None = None


class Server(uvicorn.Server):
    """Drains before it stops: the first signal lets the conversations finish, the second ends them."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own bookkeeping: it would raise the signal again after a clean stop.
        if self._hub.draining or not self.started:
            self.should_exit = self.force_exit = True
        else:
            self._hub.draining = True
            self._loop.call_soon_threadsafe(self._start_draining)

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super()._serve(sockets)

    def _start_draining(self) -> None:
        event("draining", sessions=self._hub.sessions, seconds=self._hub.limits.drain_seconds)
        self._drain = asyncio.ensure_future(self._drain_and_stop())

    async def _drain_and_stop(self) -> None:
        await self._hub.drain()
        self.should_exit = True


def own_batch(model: Model, preset: str | None, most: int) -> int | None:
    """How many conversations to step together where nobody says; None where each is stepped by itself.

    Where frames are captured or compiled, doing that for each conversation as it comes would stop the others for seconds.
    """
    if not model.in_lanes(model.generation(preset)):
        return None
    free = getattr(model.backend, "free_bytes", lambda: None)()
    each = lane_bytes(model.mimi, model.programs, guided=model.generation().guidance != 1)  # as `Model.lanes` makes them
    fitting = most if free is None else int(0.9 * free / each)  # graphs take their share too
    return max(1, min(most, fitting))


def make_hub(
    models: Mapping[str, Model],
    options: Options,
    metrics: Metrics | None = None,
    on_part: Callable[[int, int], None] = lambda done, total: None,
) -> Hub:
    """A hub over loaded models by their names, the default first; takes a second to measure each.

    With `options.batch`, conversations are lanes of one batch: each waits on a thread of its own for the frame they share.
    `on_part`: as in `Model.prepare`.
    Raises ConfigError for a model that does not speak.
    """
    limits, workers, batch = options.limits, options.workers, options.batch
    if batch is not None:
        workers, limits = batch, replace(limits, sessions=min(batch, limits.sessions or batch))
    hub = Hub([_offer(name, model, options, on_part) for name, model in models.items()], limits, workers, metrics)
    if metrics is not None:
        metrics.watch(hub)
    return hub


def _offer(name: str, model: Model, options: Options, on_part: Callable[[int, int], None]) -> Offer:
    if model.config.dep_q == 0:
        raise ConfigError(f"{name} writes text only; a conversation needs a model that speaks")
    batch = None if options.batch is None else model.lanes(options.batch, on_part=on_part)
    if batch is None:
        model.prepare(options.preset, live=True, on_part=on_part)
    open_engine = model.session if batch is None else batch.session
    mimi = model.mimi
    return Offer(name, open_engine, model.generation(options.preset), mimi.frame_size, mimi.sample_rate, options.preset, batch)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError when the address is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is sent faster than it is read waits in the client, not here: a second of sound, or a ping behind it, is enough.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind(address)
        listener.listen(1024)  # so that who is told the address can connect at once
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error}") from error
    return listener


def configured(hub: Hub, metrics: Metrics, options: Options) -> uvicorn.Config:
    """The application and uvicorn's settings."""
    serving = Serving(hub, metrics)
    tls = options.tls
    return uvicorn.Config(
        build(serving, options.access),
        http=PatientHttp,
        ws=PatientWebSocket,
        ws_max_size=options.limits.message_bytes,
        # Sound does not get smaller, and a small message that grows is a weapon.
        ws_per_message_deflate=False,
        # Half-open lines are noticed by their silence; a pong may wait long behind sound that is not read yet.
        ws_ping_interval=None,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )


def serve(
    listener: socket.socket,
    models: Mapping[str, Model],
    options: Options,
    on_start: Callable[[str, Hub], None],
    on_part: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Serve these models by their names, the default first, until a signal; `on_start` is called with the address and the hub
    just before connections are taken, `on_part` as in `Model.prepare`."""
    metrics = Metrics()
    hub = make_hub(models, options, metrics, on_part)
    scheme = "http" if options.tls is None else "https"
    host = f"[{options.host}]" if ":" in options.host else options.host
    on_start(f"{scheme}://{host}:{listener.getsockname()[1]}", hub)
    try:
        Server(configured(hub, metrics, options), hub).run(sockets=[listener])
    finally:
        hub.shut_down()
