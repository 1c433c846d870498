"""What is spoken on the wire: small adapters without any input or output of their own, over one conversation."""

from clearline.server.protocols.base import EndOfInput, Heard, Message, Protocol, ProtocolError, Welcome
from clearline.server.protocols.pcm import PcmProtocol

__all__ = ["EndOfInput", "Heard", "Message", "PcmProtocol", "Protocol", "ProtocolError", "Welcome"]
