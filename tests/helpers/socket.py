"""The WebSocket of a server without a network: two queues, and a client that can be told not to read."""

import asyncio
import json

from starlette.websockets import WebSocketDisconnect, WebSocketState


class Socket:
    """What a `Connection` needs of a WebSocket. `reads`: whether the client takes what is sent."""

    def __init__(self, reads: bool = True) -> None:
        self.application_state = WebSocketState.CONNECTED
        self.incoming: asyncio.Queue = asyncio.Queue()
        self.sent: list[str | bytes] = []
        self.code: int | None = None
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()

    def says(self, *messages: str | bytes | None) -> None:
        """The client sends; None: it leaves."""
        for message in messages:
            kind = "text" if isinstance(message, str) else "bytes"
            gone = {"type": "websocket.disconnect", "code": 1006}
            self.incoming.put_nowait(gone if message is None else {"type": "websocket.receive", kind: message})

    async def receive(self) -> dict:
        return await self.incoming.get()

    async def send_bytes(self, data: bytes) -> None:
        await self.reads.wait()
        if self.application_state is not WebSocketState.CONNECTED:
            raise WebSocketDisconnect(1006)
        self.sent.append(data)

    send_text = send_bytes

    async def close(self, code: int, reason: str) -> None:
        await self.reads.wait()
        self.code, self.application_state = code, WebSocketState.DISCONNECTED

    @property
    def objects(self) -> list[dict]:
        return [json.loads(message) for message in self.sent if isinstance(message, str)]

    @property
    def frames(self) -> int:
        return sum(isinstance(message, bytes) for message in self.sent)
