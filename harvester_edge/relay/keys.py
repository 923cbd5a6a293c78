"""The relay's key and certificate: made once a site, signed by nobody, pinned by every pilot."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from ailurus.protocol.errors import AilurusError
from harvester_edge.files import write_whole

# Nothing but the pin is believed, so nothing is gained by an earlier end.
YEARS = 20


def made(directory: Path, url: str) -> tuple[Path, Path]:
    """The files of certificate and key; made if they are not there."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    if not certificate.exists():
        texts = _new(urlsplit(url).hostname or "relay")
        write_whole(key, texts[1], mode=0o600)
        write_whole(certificate, texts[0])
    return certificate, key


def pin(directory: Path) -> str:
    """SHA-256 of the certificate, as `pilot --pin` takes it. Raises AilurusError if there is
    none."""
    try:
        text = (directory / "certificate.pem").read_text("utf-8")
    except FileNotFoundError:
        raise AilurusError(
            "the relay has no certificate yet",
            field="network",
            remedy="start `harvester-edge relay` first",
        ) from None
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()


def _new(host: str) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Ailurus relay")])
    try:
        known: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        known = x509.DNSName(host)
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([known]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
