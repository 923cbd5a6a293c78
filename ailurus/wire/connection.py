"""Connections whose requests go out in one piece, whose answers are their own, and whom a machine
trusts.

The standard library sends the head of a request and its body each by itself: two packets, or two
records of TLS, for which the server wakes twice.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, parse_headers
from pathlib import Path
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

# Bytes of a body that is copied behind its head.
LARGEST = 64 * 1024

MOST_INTERIM = 100
"""Answers to a request that are not its last (1xx): a server may say that it works on it."""

# Where systems keep the authorities that they trust: a Python that was built elsewhere looks in
# one.
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Gentoo, NixOS
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # RHEL and its kin
    "/etc/pki/tls/certs/ca-bundle.crt",  # the same, and older ones
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/var/lib/ca-certificates/ca-bundle.pem",  # the same
    "/etc/ssl/cert.pem",  # Alpine
)


def authorities(environment: Mapping[str, str] = os.environ) -> str | None:
    """The file with this machine's authorities; None where Python finds them by itself, in the
    places it was built for or by SSL_CERT_FILE and SSL_CERT_DIR."""
    if environment.get("SSL_CERT_FILE") or environment.get("SSL_CERT_DIR"):
        return None
    usual = ssl.get_default_verify_paths()
    if usual.cafile or (usual.capath and any(Path(usual.capath).iterdir())):
        return None
    return next((path for path in AUTHORITIES if os.access(path, os.R_OK)), None)


def verifying(ca: str = "") -> ssl.SSLContext:
    """A context that believes this machine's authorities, and those in the file `ca` beside
    them."""
    context = create_urllib3_context()
    if (path := authorities()) is not None:
        context.load_verify_locations(path)
    else:
        context.load_default_certs()
    if ca:
        context.load_verify_locations(ca)
    return context


class _LastAnswer(HTTPResponse):
    """The last answer to a request. The standard library takes «103 Early Hints» for it, and what
    really is for the answer to the request after."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if found[1] == HTTPStatus.SWITCHING_PROTOCOLS:
                raise HTTPException("the server changes to a protocol that nobody asked for")
            if found[1] >= HTTPStatus.OK:
                return found
            parse_headers(self.fp)
        raise HTTPException(f"more than {MOST_INTERIM} interim answers (1xx)")

    def begin(self) -> None:
        super().begin()
        coded = self.headers.get("Transfer-Encoding", "").strip().lower()
        odd = coded not in {"", "identity", "chunked"}
        # The standard library would read to the connection's end.
        odd |= self.length is None and not self.chunked and "Content-Length" in self.headers
        if odd and self.length != 0:
            raise HTTPException("the answer does not say how long it is in a way that we know")


class Joining(HTTPConnection):
    """Sends the head of a request together with a small body."""

    response_class = _LastAnswer

    # The head of a request, held back until its body comes; blank: the head is still to come.
    _head: bytes | None = None

    def request(self, method: str, url: str, body: Any = None, *more: Any, **options: Any) -> None:
        self._head = b"" if 0 < self.length_of(body) <= LARGEST else None
        super().request(method, url, body, *more, **options)
        if self._head:
            # The body came to nothing.
            self.send(b"")

    @staticmethod
    def length_of(body: Any) -> int:
        """Bytes of a body that comes in one piece; 0: it may not."""
        return len(body) if isinstance(body, bytes) else 0

    def send(self, data: Any) -> None:
        if self._head is None:
            super().send(data)
        elif not self._head:
            self._head = data
        else:
            head, self._head = self._head, None
            super().send(head + data)


class _Https(Joining, HTTPSConnection):
    pass


def pools(http: type[HTTPConnection], https: type[HTTPSConnection]) -> dict[str, Any]:
    """urllib3's pools of such connections, by scheme."""
    return {
        "http": type("HttpPool", (HTTPConnectionPool,), {"ConnectionCls": http}),
        "https": type("HttpsPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
    }


POOLS = pools(Joining, _Https)
