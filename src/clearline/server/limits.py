"""What one client may take of the machine. Every queue and every wait of the server has its bound here."""

from dataclasses import dataclass

from clearline.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Bounds; times in seconds, queues in frames of 80 ms.

    sessions: conversations at once, or None for as many as the measured speed allows; session_seconds: the longest
    conversation, or None. heard_frames: how much may wait to be answered before the client is no longer read;
    reply_frames: how much may wait to be sent before the conversation stands still. start_seconds: until a client has said
    what it wants; stalled_seconds: silence on the wire (not silent sound) after which a client counts as gone;
    slow_reader_seconds: the longest a single send may take. message_bytes and message_seconds: one message, as it comes and
    as sound; messages_per_second: clients that send more are read more slowly. connections: open WebSockets, refused ones
    included. load: the share of the machine that admission gives away. retry_seconds: the hint to those who were refused;
    drain_seconds: what running conversations get to finish.
    """

    sessions: int | None = None
    session_seconds: float | None = None
    heard_frames: int = 25
    reply_frames: int = 25
    start_seconds: float = 15.0
    stalled_seconds: float = 30.0
    slow_reader_seconds: float = 10.0
    message_bytes: int = 98_304
    message_seconds: float = 2.0
    messages_per_second: int = 500
    connections: int = 256
    load: float = 0.75
    retry_seconds: int = 10
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (isinstance(value, bool) or not value >= 0 or (value == 0 and name != "drain_seconds")):
                raise ConfigError(f"the limit {name} is {value!r}; it must be more than 0")
