"""Who may talk to the server: a token, the page's origin, and the name the server was called by."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from clearline.errors import ConfigError
from clearline.server.twilio_signature import is_signed

_LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
# The page itself holds no secret, and a browser cannot send a token for a style sheet.
_OPEN_PREFIXES = ("/health", "/web/")
MIN_TOKEN_CHARACTERS = 16
# Twilio takes an address without a query and sends no header of ours: there the token is the end of the path.
TWILIO_PATH = "/api/twilio"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that binds to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """token: asked for everywhere but on the page and /health, when there is one.

    origins: other sites ("https://a.example") whose pages may open a conversation, and by whose names a proxy may call the
    server. loopback: the server answers only when called by such a name or a name of this machine, so that no site can reach
    it by pointing a name of its own here (DNS rebinding). twilio_auth_token: what Twilio signs its requests with; where it is
    given, telephone calls without that signature are refused.
    """

    token: str | None = None
    origins: frozenset[str] = field(default_factory=frozenset)
    loopback: bool = True
    twilio_auth_token: str | None = None

    @staticmethod
    def checked(host: str, token: str | None, origins: Iterable[str], twilio_auth_token: str | None = None) -> "Access":
        """Raises ConfigError for an open address without a token, a token one could guess, or an origin that is none."""
        local = is_loopback(host)
        if token is None and not local:
            raise ConfigError(
                f"{host} can be reached from other machines: give a --token (at least {MIN_TOKEN_CHARACTERS} characters; "
                "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one), or bind to 127.0.0.1"
            )
        if token is not None and (len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable()):
            raise ConfigError(f"the token must have at least {MIN_TOKEN_CHARACTERS} printable ASCII characters")
        for origin in origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
                raise ConfigError(f"{origin!r} is not an origin; it must look like https://example.org")
        return Access(token, frozenset(origins), local, twilio_auth_token)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """HTTP status and reason why this request is refused; None when it is not."""
        headers = Headers(scope=scope)
        name = _host_name(headers.get("host", ""))
        if self.loopback and name not in _LOOPBACK_NAMES and name not in {urlsplit(origin).hostname for origin in self.origins}:
            return 403, "this server answers only to localhost, 127.0.0.1 or [::1]"
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != headers.get("host"):
            return 403, "pages of other sites may not use this server (--allow-origin lets one in)"
        path: str = scope["path"]
        if self.twilio_auth_token is not None and _is_twilios(path) and not is_signed(scope, self.twilio_auth_token):
            return 403, "this is not signed by Twilio (X-Twilio-Signature), or not for this address"
        if self.token is None or path == "/" or path.startswith(_OPEN_PREFIXES):
            return None
        if path.startswith(f"{TWILIO_PATH}/"):
            given: str | None = path.removeprefix(f"{TWILIO_PATH}/")
        else:
            given = _token(headers, QueryParams(scope.get("query_string", b"")))
        if given is None or not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN"
        return None


def _is_twilios(path: str) -> bool:
    return path == TWILIO_PATH or path.startswith(f"{TWILIO_PATH}/")


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _token(headers: Headers, query: QueryParams) -> str | None:
    """From the query (browsers cannot set headers of a WebSocket; Kyutai's page says worker_auth_id), or the header.

    The password of Basic counts too: `moshi.client --url ws://any:TOKEN@host:8998` sends it so.
    """
    for name in ("token", "worker_auth_id"):
        if name in query:
            return query[name]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


class AccessControl:
    """ASGI middleware: refused requests never reach the application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None if scope["type"] == "lifespan" else self._access.refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
            return
        status, reason = refused
        response: Response = JSONResponse({"error": reason}, status)
        if scope["type"] == "http":
            await response(scope, receive, send)
        else:
            await WebSocket(scope, receive, send).send_denial_response(response)
