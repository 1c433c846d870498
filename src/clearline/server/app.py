"""The web application: its addresses, and what answers at each."""

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
from clearline.server.access import Access, AccessControl
from clearline.server.connection import Connection
from clearline.server.hub import Hub
from clearline.server.metrics import CONTENT_TYPE, Metrics
from clearline.server.protocols import PcmProtocol, Protocol

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
    """What the handlers share. `speaks_opus`: Kyutai's protocol is offered too."""

    hub: Hub
    metrics: Metrics
    model: str
    preset: str | None
    speaks_opus: bool
    sockets: int = 0


def build(serving: Serving, access: Access) -> Starlette:
    """The ASGI application."""
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/health", _health),
            Route("/metrics", _metrics),
            Route("/api/info", _info),
            WebSocketRoute("/api/pcm", _pcm),
            WebSocketRoute("/api/chat", _kyutai),
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
    return JSONResponse(
        {
            "model": serving.model,
            "preset": serving.preset,
            "presets": list(PRESETS),
            "seed": str(hub.defaults.seed),
            "temperature": hub.defaults.audio.temperature,
            "text_temperature": hub.defaults.text.temperature,
            "sample_rate": hub.sample_rate,
            "frame_size": hub.frame_size,
            "protocols": ["pcm", "kyutai"] if serving.speaks_opus else ["pcm"],
            **hub.status(),
        }
    )


async def _pcm(socket: WebSocket) -> None:
    await _serve(socket, PcmProtocol())


async def _kyutai(socket: WebSocket) -> None:
    serving: Serving = socket.app.state.serving
    if not serving.speaks_opus:
        await socket.send_denial_response(JSONResponse({"error": "this server does not speak Kyutai's protocol"}, 404))
        return
    from clearline.server.protocols.kyutai import KyutaiProtocol

    await _serve(socket, KyutaiProtocol(serving.hub.sample_rate))


async def _serve(socket: WebSocket, protocol: Protocol) -> None:
    serving: Serving = socket.app.state.serving
    most = serving.hub.limits.connections
    if serving.sockets >= most:
        await socket.send_denial_response(JSONResponse({"error": f"{most} connections are open"}, 503))
        return
    serving.sockets += 1
    try:
        await socket.accept()
        query = {name: value for name, value in socket.query_params.items() if name not in _NO_SETTINGS}
        await Connection(socket, protocol, serving.hub, serving.model, serving.preset).serve(query)
    finally:
        serving.sockets -= 1
