"""GET requests to servers that are no dispatcher, by requests: issuers of tokens, CRIC, probes.

Nothing of it is hot, and no pilot imports it. A proxy and other authorities are used where the
caller names them; the environment and `.netrc` decide nothing.
"""

from __future__ import annotations

import ssl
import time
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from ailurus.protocol.errors import AilurusError
from ailurus.wire.connection import authorities

MIB = 1024 * 1024
# Bytes that are read and unpacked at once.
PIECE = 64 * 1024


class _Adapter(HTTPAdapter):
    """Verifies servers by the TLS options given here: requests itself would trust certifi's too."""

    def __init__(self, **tls: Any) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._tls)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, **self._tls)

    def cert_verify(self, *_: Any) -> None:
        """Leave connections as the options made them."""


def session(*, ca: str = "", pin: str = "", proxy: str = "") -> requests.Session:
    """A session that trusts the authorities in the PEM file `ca`, by default this machine's.

    With `pin`, the SHA-256 of a certificate in hexadecimal, it trusts that one, whoever signed it.
    Raises AilurusError when `ca` cannot be used.
    """
    made = requests.Session()
    made.trust_env = False
    made.headers["Accept-Encoding"] = "identity"
    if proxy:
        made.proxies = {"http": proxy, "https": proxy}
    tls: dict[str, Any] = {}
    if pin:
        made.verify = False
        tls = {"assert_fingerprint": pin, "assert_hostname": False}
    context = create_urllib3_context(cert_reqs=ssl.CERT_NONE if pin else ssl.CERT_REQUIRED)
    path = "" if pin else ca or authorities()
    try:
        if path:
            context.load_verify_locations(path)
        elif not pin:
            context.load_default_certs()
    # ssl.SSLError is an OSError.
    except OSError as error:
        reason = error.strerror or error
        raise AilurusError(f"cannot use the authorities in {path}: {reason}") from None
    made.mount("https://", _Adapter(ssl_context=context, **tls))
    return made


def get(
    within: requests.Session, url: str, *, timeout_s: float, max_bytes: int = MIB
) -> tuple[int, bytes]:
    """Status and body of the answer at `url`. A redirect is an answer like others: it is not
    followed.

    Raises AilurusError when no whole answer of at most `max_bytes` comes within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    body = bytearray()
    try:
        answer = within.get(
            url,
            # requests takes urllib3's, which bounds the connection and the answer together.
            timeout=urllib3.Timeout(total=timeout_s),  # type: ignore[arg-type]
            allow_redirects=False,
            stream=True,
        )
        with answer:
            # With a bound: without one, read1 makes room for as much as the server announces,
            # unpacks all that it gets, and does not notice an answer that ends too early.
            while piece := answer.raw.read1(PIECE, decode_content=True):
                body += piece
                if len(body) > max_bytes:
                    raise AilurusError(f"{url} answers with more than {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise AilurusError(f"{url} answers for more than {timeout_s:g} s")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise AilurusError(f"{url} does not answer: {error}") from None
    return answer.status_code, bytes(body)


def document(
    within: requests.Session, url: str, *, timeout_s: float, max_bytes: int = MIB
) -> bytes:
    """The body at `url`. Raises AilurusError as `get` does, and when the status is not 200."""
    status, body = get(within, url, timeout_s=timeout_s, max_bytes=max_bytes)
    if status != 200:
        raise AilurusError(f"{url} answers {status}")
    return body
