"""Uvicorn's two connection classes, taught to let go of clients that do nothing."""

from asyncio.transports import BaseTransport

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# Time for the last messages to get through after the application is done with a WebSocket.
LINGER_SECONDS = 5.0
FIRST_REQUEST_SECONDS = 15.0


class PatientHttp(H11Protocol):
    """Closes a connection that has sent no request within 15 s; uvicorn's own timer starts after the first response."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._first = self.loop.call_later(FIRST_REQUEST_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._first.cancel()
        super().connection_lost(exc)


class PatientWebSocket(WebSocketsSansIOProtocol):
    """Cuts the line of a client that does not read; `transport.close` alone would wait for it for ever."""

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
