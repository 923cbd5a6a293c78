"""As whom files are moved by https: with a bearer token in each request, or an X.509 proxy on each
connection. Neither goes in the clear."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from ailurus.token_discovery import of_site
from pilot.ports import JobError

LONGEST = 1 << 20
"""Bytes of a credential: a chain of certificates has some thousands."""


class Identity(Protocol):
    """Asked for each request."""

    def token(self, url: Url) -> str:
        """For a request; blank: none. Raises JobError."""

    def proxy(self, url: Url) -> str:
        """Certificates and key (PEM) for a connection; blank: none. Raises JobError."""


class OfSite:
    """What a site has in files: for its own storage alone. They are renewed, and read anew."""

    def __init__(self, token_file: str, proxy: str, only: Sequence[Url]) -> None:
        self._token_file, self._proxy_file, self._only = token_file, proxy, only
        self._seen: tuple[object, str] = None, ""

    def token(self, url: Url) -> str:
        if not self._token_file or not self._covers(url):
            return ""
        try:
            found = of_site(self._token_file)
        except AilurusError as error:
            what = f"{url}: {error.message}"
            raise JobError(Code.SERVICE_UNAVAILABLE, what, remedy=error.remedy) from None
        return "".join((found.text or _read(found.path, "token", "token_file", url)).split())

    def proxy(self, url: Url) -> str:
        if not self._proxy_file or not self._covers(url):
            return ""
        try:
            found = os.stat(self._proxy_file)  # noqa: PTH116 - for each request
        except OSError as error:
            raise _unreadable("proxy", "proxy", url, error.strerror) from None
        mark = found.st_ino, found.st_mtime_ns, found.st_size
        if self._seen[0] != mark:
            self._seen = mark, _read(self._proxy_file, "proxy", "proxy", url)
        return self._seen[1]

    def _covers(self, url: Url) -> bool:
        return url.scheme == "https" and any(url.within(prefix) for prefix in self._only)


class OfUser(NamedTuple):
    """What a job's user has given: for all that the site lets jobs use."""

    bearer: str
    pem: str

    def token(self, url: Url) -> str:
        return self.bearer if url.scheme == "https" else ""

    def proxy(self, url: Url) -> str:
        return self.pem if url.scheme == "https" else ""


def show(context: ssl.SSLContext, pem: str) -> None:
    """Let servers that ask for a certificate have that of a proxy. Raises AilurusError where it is
    none."""
    # OpenSSL reads files alone; this one is on no disk.
    memory = os.memfd_create("proxy", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(pem.encode())
        # Without a word for an encrypted key it would ask at the terminal.
        context.load_cert_chain(f"/proc/self/fd/{memory}", password="")
    except (OSError, ValueError) as error:
        # ssl.SSLError is an OSError.
        why = getattr(error, "reason", None) or type(error).__name__
        raise AilurusError(
            f"the proxy cannot be used ({why})",
            remedy="it has a certificate, its private key without a passphrase, and the chain (PEM)",
        ) from None
    finally:
        os.close(memory)


def _read(path: str, what: str, option: str, url: Url) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - for each request
            return file.read(LONGEST)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _unreadable(what, option, url, why) from None


def _unreadable(what: str, option: str, url: Url, why: str | None) -> JobError:
    return JobError(
        Code.SERVICE_UNAVAILABLE,
        f"the site's {what} for {url} cannot be read: {why}",
        remedy=f"look at storage.http.{option} of the site",
    )
