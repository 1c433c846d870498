"""JSON objects, as most protocols wrap their messages."""

import base64
import binascii
import json
from typing import Any

from clearline.server.protocols.base import Message, ProtocolError


def read_object(message: Message) -> dict[str, Any]:
    """The object in a text message. Raises ProtocolError when there is none."""
    if isinstance(message, bytes):
        raise ProtocolError("messages are text here: one JSON object each")
    try:
        said = json.loads(message)
    except (ValueError, RecursionError):
        raise ProtocolError("a text message must be JSON, and this one is not") from None
    if not isinstance(said, dict):
        raise ProtocolError("a text message must be a JSON object")
    return said


def read_base64(text: object, name: str) -> bytes:
    """The bytes in a field of an object. Raises ProtocolError when it is not base64."""
    if not isinstance(text, str):
        raise ProtocolError(f"{name} must be a text in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(f"{name} is not base64") from None


def write_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def shown(value: object) -> str:
    """A client's value for an error message: short, and printable whatever it was."""
    text = repr(value[:40]) if isinstance(value, str) else repr(value) if isinstance(value, int | float | None) else "that"
    return text[:60].encode("ascii", "replace").decode()
