"""One WebSocket and one conversation: reading, writing, and every way in which they part."""

import asyncio
from collections.abc import Iterable, Mapping

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from clearline.errors import ClearlineError, ConfigError
from clearline.server.conversation import Conversation, Ended, Notice, Reply
from clearline.server.hub import Hub, NoRoomError
from clearline.server.logs import event
from clearline.server.pace import Pace
from clearline.server.protocols import Answer, EndOfInput, Heard, Message, Protocol, ProtocolError, Start, Welcome
from clearline.server.settings import said_once
from clearline.server.state import End, State

REPORT_SECONDS = 1.0


class Connection:
    """Serves one accepted WebSocket until either side has had enough."""

    def __init__(self, socket: WebSocket, protocol: Protocol, hub: Hub) -> None:
        self._socket = socket
        self._protocol = protocol
        self._hub = hub
        self._limits = hub.limits

    async def serve(self, address: Iterable[tuple[str, str]]) -> None:
        """From the client's wishes to the last close; never raises for anything a client does. address: names and values of
        its query."""
        try:
            query = await self._wishes() if self._protocol.waits else said_once(address)
            offer = self._hub.offer(self._protocol.model(query))
            config = self._protocol.settings(query, offer.defaults)
            conversation = await self._hub.open(offer, config, self._protocol.encode, self._protocol.name)
        except NoRoomError as refusal:
            await self._turn_away(Ended(End.REFUSED, str(refusal)), refusal.retry_seconds)
        except ConfigError as error:
            await self._turn_away(Ended(End.BAD_SETTINGS, str(error)))
        except ProtocolError as error:
            await self._turn_away(Ended(End.BAD_MESSAGE, str(error)))
        except TimeoutError:
            await self._turn_away(Ended(End.STALLED, End.STALLED.label))
        except WebSocketDisconnect:
            event("client left before it began", protocol=self._protocol.name)
        except Exception as error:  # the model's state could not be made
            await self._turn_away(Ended(End.FAILED, str(error) or type(error).__name__))
        else:
            preset = query.get("preset", offer.preset or "default")
            await self._hold(
                conversation, Welcome(conversation.number, offer.name, config, preset, offer.sample_rate, offer.frame_size)
            )

    async def _wishes(self) -> Mapping[str, str]:
        """What the client says that it wants, in a message of its own."""
        async with asyncio.timeout(self._limits.start_seconds):
            while True:
                meaning = self._protocol.parse(await self._receive())
                if isinstance(meaning, Start):
                    return meaning.query
                if isinstance(meaning, EndOfInput):
                    raise WebSocketDisconnect(1000)

    async def _hold(self, conversation: Conversation, facts: Welcome) -> None:
        event("session opened", session=conversation.number, protocol=self._protocol.name)
        try:
            await self._send(self._protocol.welcome(facts))
            await self._converse(conversation)
        except TimeoutError:  # before OSError, of which it is one
            self._hub.close(conversation, End.SLOW_READER)
        except (WebSocketDisconnect, OSError):
            self._hub.close(conversation, End.LEFT)
        finally:
            self._hub.close(conversation, End.LEFT)  # whatever happened: state is released
            ended = conversation.ended
            assert ended is not None
            figures = conversation.account.whole()
            event("session closed", session=conversation.number, reason=ended.why.label, detail=ended.message, **figures)

    async def _converse(self, conversation: Conversation) -> None:
        """Two tasks; when one has ended, so has the conversation."""
        speaking = asyncio.create_task(self._speak(conversation))
        listening = asyncio.create_task(self._listen(conversation))
        try:
            limit = self._limits.session_seconds
            done, _ = await asyncio.wait((speaking, listening), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                conversation.end(End.EXPIRED, f"a conversation may last {(limit or 0) / 60:g} minutes here")
            elif speaking not in done:
                listening.result()  # raises when the client has left
            await speaking  # says the last words
        finally:
            for task in (speaking, listening):
                task.cancel()
            await asyncio.gather(speaking, listening, return_exceptions=True)

    async def _speak(self, conversation: Conversation) -> None:
        reported = self._hub.clock()
        while True:
            news = await conversation.news()
            if self._hub.clock() - reported >= REPORT_SECONDS or isinstance(news, Ended):
                reported = self._hub.clock()
                figures = conversation.account.recent() | {"waiting_frames": conversation.waiting}
                await self._send(self._protocol.report(figures))
            match news:
                case Reply():
                    await self._send(self._protocol.reply(news))
                case Notice():
                    await self._send(self._protocol.notice(news))
                case Ended():
                    await self._send(self._protocol.farewell(news))
                    await self._close(news)
                    return

    async def _listen(self, conversation: Conversation) -> None:
        """Returns when the conversation has been ended for the client's sake; raises WebSocketDisconnect when it left."""
        pace = Pace(self._limits.messages_per_second, self._hub.clock)
        while True:
            await pace.wait()
            try:
                # Who has said that it will say no more may be silent for as long as it is answered.
                patience = self._limits.stalled_seconds if conversation.state is State.LIVE else None
                async with asyncio.timeout(patience):
                    message = await self._receive()
            except TimeoutError:
                seconds = self._limits.stalled_seconds
                conversation.end(End.STALLED, f"nothing came from the client for {seconds:g} seconds; send silence to stay")
                return
            try:
                meaning = await asyncio.to_thread(self._protocol.parse, message)
                match meaning:
                    case Heard():
                        self._check_length(meaning)
                        await conversation.hear(meaning.pcm)
                    case EndOfInput():
                        conversation.end_input()
                    case Answer():
                        await self._send(meaning.messages)
            except ClearlineError as error:
                conversation.end(End.BAD_MESSAGE, str(error))
                return

    def _check_length(self, heard: Heard) -> None:
        most = int(self._limits.message_seconds * self._hub.sample_rate)
        if len(heard.pcm) > most:
            seconds = len(heard.pcm) / self._hub.sample_rate
            raise ProtocolError(f"a message may hold {self._limits.message_seconds:g} seconds of sound; this holds {seconds:.2f}")

    async def _receive(self) -> Message:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        content: Message | None = message.get("bytes")
        return content if content is not None else message.get("text", "")

    async def _send(self, messages: Iterable[Message]) -> None:
        """Raises TimeoutError when the client does not take a message within the limit."""
        for message in messages:
            async with asyncio.timeout(self._limits.slow_reader_seconds):
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message)

    async def _turn_away(self, ended: Ended, retry_seconds: int | None = None) -> None:
        event("session refused", protocol=self._protocol.name, reason=ended.why.label, detail=ended.message)
        try:
            await self._send(self._protocol.farewell(ended, retry_seconds))
            await self._close(ended)
        except (WebSocketDisconnect, OSError, TimeoutError):
            pass  # it did not wait for the answer

    async def _close(self, ended: Ended) -> None:
        if self._socket.application_state is WebSocketState.CONNECTED:
            # A close frame has room for 123 bytes of reason.
            reason = ended.message.encode()[:120].decode(errors="ignore")
            async with asyncio.timeout(self._limits.slow_reader_seconds):
                await self._socket.close(ended.why.close_code, reason)
