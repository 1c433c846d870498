"""The web application: its addresses, and what answers at each."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from clearline.config import PRESETS
from clearline.errors import ConfigError
from clearline.server.access import TWILIO_PATH, Access, AccessControl
from clearline.server.connection import Connection
from clearline.server.hub import Hub
from clearline.server.metrics import CONTENT_TYPE, Metrics
from clearline.server.offer import Offer
from clearline.server.protocols import PcmProtocol, Protocol
from clearline.server.protocols.kyutai import KyutaiProtocol
from clearline.server.protocols.openai import OpenAIProtocol
from clearline.server.protocols.opus import OpusProtocol
from clearline.server.protocols.twilio import TwilioProtocol

WEB = Path(str(resources.files("clearline.server") / "web"))

_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# What the address may hold besides settings.
_NO_SETTINGS = ("token", "worker_auth_id")


@dataclass
class Serving:
    """What the handlers share."""

    hub: Hub
    metrics: Metrics
    sockets: int = 0


_PROTOCOLS: dict[str, Callable[[Serving], Protocol]] = {
    "pcm": lambda serving: PcmProtocol(),
    "opus": lambda serving: OpusProtocol(serving.hub.sample_rate),
    "kyutai": lambda serving: KyutaiProtocol(serving.hub.sample_rate),
    "openai": lambda serving: OpenAIProtocol(serving.hub.sample_rate),
    "twilio": lambda serving: TwilioProtocol(serving.hub.sample_rate),
}


def build(serving: Serving, access: Access) -> Starlette:
    """The ASGI application."""
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/health", _health),
            Route("/metrics", _metrics),
            Route("/api/info", _info),
            WebSocketRoute("/api/pcm", _speaks("pcm")),
            WebSocketRoute("/api/opus", _speaks("opus")),
            WebSocketRoute("/api/chat", _speaks("kyutai")),
            WebSocketRoute("/v1/realtime", _speaks("openai")),
            WebSocketRoute(TWILIO_PATH, _speaks("twilio")),
            WebSocketRoute(f"{TWILIO_PATH}/{{token}}", _speaks("twilio")),
            Mount("/web", _Page(directory=WEB)),
        ],
        middleware=[Middleware(AccessControl, access=access)],
    )
    app.state.serving = serving
    return app


class _Page(StaticFiles):
    def file_response(self, *arguments: Any, **keywords: Any) -> Response:
        response = super().file_response(*arguments, **keywords)
        response.headers.update(_SECURITY_HEADERS)
        return response


async def _page(request: Request) -> Response:
    return FileResponse(WEB / "index.html", headers=_SECURITY_HEADERS)


async def _health(request: Request) -> Response:
    hub: Hub = request.app.state.serving.hub
    return JSONResponse(hub.status(), 503 if hub.draining else 200)


async def _metrics(request: Request) -> Response:
    return PlainTextResponse(request.app.state.serving.metrics.text(), media_type=CONTENT_TYPE)


async def _info(request: Request) -> Response:
    serving: Serving = request.app.state.serving
    hub = serving.hub
    figures = hub.status()
    return JSONResponse(
        {
            **figures,
            "model": hub.default.name,
            "presets": list(PRESETS),
            "sample_rate": hub.sample_rate,
            "frame_size": hub.frame_size,
            "protocols": _spoken(serving),
            **_settings(hub.default),
            "models": {name: {**figures["models"][name], **_settings(offer)} for name, offer in hub.offers.items()},
        }
    )


def _settings(offer: Offer) -> dict[str, object]:
    """What conversations with this model begin with."""
    return {
        "preset": offer.preset,
        "seed": str(offer.defaults.seed),  # JavaScript would round a number of 64 bits
        "temperature": offer.defaults.audio.temperature,
        "text_temperature": offer.defaults.text.temperature,
    }


def _speaks(name: str) -> Callable[[WebSocket], Awaitable[None]]:
    """The handler of one protocol."""

    async def handle(socket: WebSocket) -> None:
        serving: Serving = socket.app.state.serving
        try:
            protocol = _PROTOCOLS[name](serving)
        except ConfigError as error:  # the model's codec has another rate than the protocol
            await _refuse(socket, 404, str(error))
        else:
            await _serve(socket, protocol)

    return handle


def _spoken(serving: Serving) -> list[str]:
    """Names of the protocols that this model can speak."""
    names = []
    for name, make in _PROTOCOLS.items():
        with suppress(ConfigError):
            make(serving)
            names.append(name)
    return names


async def _refuse(socket: WebSocket, status: int, reason: str) -> None:
    await socket.send_denial_response(JSONResponse({"error": reason}, status))


async def _serve(socket: WebSocket, protocol: Protocol) -> None:
    serving: Serving = socket.app.state.serving
    most = serving.hub.limits.connections
    if serving.sockets >= most:
        await _refuse(socket, 503, f"{most} connections are open")
        return
    serving.sockets += 1
    try:
        await socket.accept()
        query = [(name, value) for name, value in socket.query_params.multi_items() if name not in _NO_SETTINGS]
        await Connection(socket, protocol, serving.hub).serve(query)
    finally:
        serving.sockets -= 1
