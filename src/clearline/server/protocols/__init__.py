"""What is spoken on the wire: small adapters without any input or output of their own, over one conversation."""

from clearline.server.protocols.base import (
    Answer,
    EndOfInput,
    Heard,
    Meaning,
    Message,
    Protocol,
    ProtocolError,
    Start,
    Welcome,
)
from clearline.server.protocols.pcm import PcmProtocol

__all__ = [
    "Answer", "EndOfInput", "Heard", "Meaning", "Message", "PcmProtocol", "Protocol", "ProtocolError", "Start", "Welcome",
]  # fmt: skip
