"""An authority as grids have them, with hosts, users and proxies of users (RFC 3820).

XRootD's `gsi` takes a certificate that ends after 2049 for one that has expired, so none does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID, ObjectIdentifier

# ProxyCertInfo, whose policy is: as its owner, in everything.
_IS_PROXY = x509.UnrecognizedExtension(
    ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
)
_USAGE = x509.KeyUsage(
    digital_signature=True, key_encipherment=True, content_commitment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
    encipher_only=False, decipher_only=False,
)  # fmt: skip
_SIGNS = x509.KeyUsage(
    digital_signature=True, key_encipherment=False, content_commitment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip
YEAR_S = 365 * 86400.0


class Holder(NamedTuple):
    """Of a certificate, and its key."""

    certificate: x509.Certificate
    key: RSAPrivateKey

    @classmethod
    def read(cls, pem: bytes) -> Holder:
        """Of certificate and key in one."""
        key = load_pem_private_key(pem, None)
        assert isinstance(key, RSAPrivateKey)
        return cls(x509.load_pem_x509_certificate(pem), key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        form = PrivateFormat.TraditionalOpenSSL
        return self.key.private_bytes(Encoding.PEM, form, NoEncryption())

    def proxy(self, lifetime_s: float = 3600) -> str:
        """A proxy of this user: certificate, key and chain (PEM), as `voms-proxy-init` writes them;
        one with a negative lifetime has expired."""
        number = x509.NameAttribute(NameOID.COMMON_NAME, str(x509.random_serial_number() % 10**9))
        subject = x509.Name([*self.certificate.subject, number])
        made = _signed(subject, self, lifetime_s, [_IS_PROXY, _USAGE])
        return (made.pem + made.key_pem + self.pem).decode()


class Authority:
    """A new one, that everybody believes who has its certificate."""

    def __init__(self) -> None:
        more = [x509.BasicConstraints(ca=True, path_length=None), _SIGNS]
        self.own = _signed(_named("Authority"), None, 10 * YEAR_S, more)

    def host(self) -> Holder:
        """For loopback."""
        at = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        names = x509.SubjectAlternativeName(at)
        return _signed(_named("localhost"), self.own, YEAR_S, [_USAGE], [names])

    def user(self, name: str) -> Holder:
        """`/O=Example/CN=NAME`."""
        return _signed(_named(name), self.own, YEAR_S, [_USAGE])


def _named(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _signed(
    subject: x509.Name,
    by: Holder | None,
    lifetime_s: float,
    critical: Sequence[x509.ExtensionType],
    more: Sequence[x509.ExtensionType] = (),
) -> Holder:
    """`by` None: by itself."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    now = dt.datetime.now(dt.UTC)
    ends = now + dt.timedelta(seconds=lifetime_s)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(ends, now) - dt.timedelta(minutes=5))
        .not_valid_after(ends)
    )
    for extension in critical:
        made = made.add_extension(extension, critical=True)
    signing = by.key if by else key
    # Strict readers, as Python 3.13, want both.
    ids = (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
    )
    for extension in (*ids, *more):
        made = made.add_extension(extension, critical=False)
    return Holder(made.sign(signing, hashes.SHA256()), key)
