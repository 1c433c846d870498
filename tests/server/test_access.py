"""Who is let in: tokens, origins, host names; and certificates."""

import base64
import hashlib
import hmac
import ssl

import pytest

from clearline.errors import ConfigError
from clearline.server.access import Access
from clearline.server.tls import from_files, self_signed
from clearline.server.twilio_signature import signature

TOKEN = "a-token-of-enough-length"


def scope(path="/api/pcm", query="", **headers) -> dict:
    headers.setdefault("host", "localhost:8998")
    return {
        "type": "websocket",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


def status(access: Access, **request) -> int | None:
    refusal = access.refusal(scope(**request))
    return None if refusal is None else refusal[0]


@pytest.mark.parametrize("host", ["localhost:8998", "127.0.0.1", "[::1]:8998", "LOCALHOST"])
def test_names_of_this_machine(host):
    assert status(Access(), host=host) is None


@pytest.mark.parametrize("host", ["evil.example:8998", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"])
def test_a_name_that_someone_else_pointed_here(host):
    assert status(Access(), host=host, path="/") == 403


def test_a_proxy_calls_by_the_name_of_an_allowed_origin():
    access = Access(origins=frozenset(["https://friend.example"]))
    assert status(access, host="friend.example", origin="https://friend.example") is None
    assert status(access, host="evil.example") == 403


@pytest.mark.parametrize(
    "origin, expected",
    [
        ("http://localhost:8998", None), ("https://localhost:8998", None), ("https://friend.example", None),
        ("https://evil.example", 403), ("null", 403), ("http://localhost:8999", 403), ("http://friend.example", 403), ("", 403),
    ],
)  # fmt: skip
def test_pages_of_other_sites(origin, expected):
    assert status(Access(origins=frozenset(["https://friend.example"])), origin=origin) == expected


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    "request_, expected",
    [
        ({}, 401), ({"query": f"token={TOKEN}"}, None), ({"query": f"seed=1&worker_auth_id={TOKEN}"}, None),
        ({"query": "token=wrong"}, 401), ({"authorization": f"Bearer {TOKEN}"}, None), ({"authorization": f"bearer {TOKEN}"}, None),
        ({"authorization": f"Bearer {TOKEN}x"}, 401), ({"authorization": basic(TOKEN)}, None), ({"authorization": basic("")}, 401),
        ({"authorization": "Basic %%%"}, 401), ({"authorization": "Basic /w=="}, 401), ({"authorization": TOKEN}, 401),
        ({"path": "/metrics"}, 401), ({"path": "/api/info"}, 401), ({"path": "/"}, None), ({"path": "/web/app.js"}, None),
        ({"path": "/health"}, None), ({"path": "//metrics"}, 401), ({"path": "/webx"}, 401), ({"query": "token=%ff%00"}, 401),
    ],
)  # fmt: skip
def test_the_token(request_, expected):
    assert status(Access(token=TOKEN, loopback=False), host="any.example", **request_) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_an_open_address_needs_a_token(host):
    with pytest.raises(ConfigError, match="token"):
        Access.checked(host, None, [])
    assert not Access.checked(host, TOKEN, []).loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_needs_none(host):
    assert Access.checked(host, None, []).loopback


@pytest.mark.parametrize("token", ["", "short", "with\nnewline-and-length", "schlüssel-schlüssel"])
def test_tokens_one_could_guess_or_not_type(token):
    with pytest.raises(ConfigError, match="16 printable"):
        Access.checked("0.0.0.0", token, [])


@pytest.mark.parametrize("origin", ["example.org", "*", "https://a.example/path", "ftp://a.example", "https://"])
def test_what_is_no_origin(origin):
    with pytest.raises(ConfigError, match="not an origin"):
        Access.checked("127.0.0.1", None, [origin])


def test_certificates(tmp_path):
    context, fingerprint = self_signed("192.168.1.5")
    assert isinstance(context, ssl.SSLContext) and len(fingerprint.split(":")) == 32
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="does not exist"):
        from_files(tmp_path / "gone.pem", tmp_path / "no.pem")
    with pytest.raises(ConfigError, match="PEM"):
        from_files(tmp_path / "no.pem", tmp_path / "no.pem")


AUTH_TOKEN = "12345"


def signed(url: str, auth_token: str = AUTH_TOKEN) -> str:
    return base64.b64encode(hmac.new(auth_token.encode(), url.encode(), hashlib.sha1).digest()).decode()


def test_the_signature_in_twilios_documentation():
    """The example of Twilio's page on security, whose form fields follow the address in the order of their names."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    fields = "CallSidCA1234567890ABCDECaller+14158675309Digits1234From+14158675309To+18005551212"
    assert signature(url + fields, AUTH_TOKEN) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


@pytest.mark.parametrize(
    "path, given, expected",
    [
        ("/api/twilio", signed("wss://example.org/api/twilio"), None),
        ("/api/twilio", signed("wss://example.org/api/twilio/"), None),
        ("/api/twilio", signed("wss://example.org:8443/api/twilio"), None),
        (f"/api/twilio/{TOKEN}", signed(f"wss://example.org/api/twilio/{TOKEN}"), None),
        ("/api/twilio", signed("ws://example.org/api/twilio"), 403),
        ("/api/twilio", signed("wss://evil.example/api/twilio"), 403),
        ("/api/twilio", signed("wss://example.org/api/chat"), 403),
        ("/api/twilio", signed("wss://example.org/api/twilio", "54321"), 403),
        ("/api/twilio", "", 403), ("/api/twilio", "é", 403), ("/api/twilio/", "", 403), ("/api/twilio/x", "", 403),
        ("/api/twilio/../twilio", "", 403), ("/api/pcm", "", None), ("/health", "", None),
    ],
)  # fmt: skip
def test_calls_that_twilio_has_signed(path, given, expected):
    access = Access(loopback=False, twilio_auth_token=AUTH_TOKEN)
    request = scope(path, host="example.org:8443") | {"raw_path": path.encode()}
    request["headers"].append((b"x-twilio-signature", given.encode("latin-1")))
    refusal = access.refusal(request)
    assert (None if refusal is None else refusal[0]) == expected


def test_a_signature_does_not_replace_the_token():
    access = Access(TOKEN, loopback=False, twilio_auth_token=AUTH_TOKEN)
    for path, expected in (("/api/twilio", 401), (f"/api/twilio/{TOKEN}", None)):
        proof = signed(f"wss://example.org{path}")
        assert status(access, path=path, host="example.org", **{"x-twilio-signature": proof}) == expected
