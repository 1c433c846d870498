"""TLS: certificate files, or a certificate that the server signs itself."""

import datetime
import hashlib
import ipaddress
import ssl
import tempfile
from pathlib import Path

from clearline.errors import ConfigError

_DAYS = 30


def from_files(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context from PEM files. Raises ConfigError when they cannot be read or do not belong together."""
    for path in (certificate, key):
        if not path.is_file():
            raise ConfigError(f"{path} does not exist or is not a file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{certificate} and {key} are not a certificate and its key in PEM format: {error}") from error
    return context


def _no_password() -> str:
    raise ConfigError("the key is encrypted; give one without a password")


def self_signed(host: str) -> tuple[ssl.SSLContext, str]:
    """A context with a fresh certificate for `host` and localhost, and its SHA-256 fingerprint. Nothing stays on disk."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Clearline")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    # The ssl module reads files only; the folder is private and gone before the server starts.
    with tempfile.TemporaryDirectory(prefix="clearline-tls-") as folder:
        files = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        for path, data in zip(files, (pem, secret), strict=True):
            path.write_bytes(data)
        context = from_files(*files)
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest().upper()
    return context, ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
