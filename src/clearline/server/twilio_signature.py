"""Twilio's signature of its requests (https://www.twilio.com/docs/usage/security#validating-requests): was it Twilio?"""

import base64
import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import Scope


def signature(url: str, auth_token: str) -> str:
    """Base64 of the HMAC-SHA1 of the URL; a WebSocket's opening has no form fields, which would follow it."""
    return base64.b64encode(hmac.new(auth_token.encode(), url.encode(), hashlib.sha1).digest()).decode()


def is_signed(scope: Scope, auth_token: str) -> bool:
    """Whether the request's X-Twilio-Signature is that of its address, as Twilio was given it: wss, the name that the request
    calls us by, with its port or without, and the path, with a slash at its end or without."""
    headers = Headers(scope=scope)
    given, host = headers.get("x-twilio-signature", ""), headers.get("host", "")
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0]
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    urls = [f"wss://{authority}{path}{slash}" for authority in (host, name) for slash in ("", "/")]
    return any(hmac.compare_digest(signature(url, auth_token).encode(), given.encode()) for url in urls)
