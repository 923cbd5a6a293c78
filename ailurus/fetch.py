"""GET requests to servers that are no dispatcher, by requests: issuers of tokens, CRIC, probes.

Nothing of it is hot, and no pilot imports it. A proxy and other authorities are used where the
caller names them; the environment and `.netrc` decide nothing.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from ailurus.protocol.errors import AilurusError
from ailurus.wire.connection import authorities, pools

MIB = 1024 * 1024
# Bytes that are read and unpacked at once.
PIECE = 64 * 1024


class _Exchange(threading.Thread):
    """One GET in a thread of its own, which the caller can leave when its time is over.

    A time-out of a socket bounds one read, not an exchange: a server that sends a byte now and then
    passes it for ever. So whoever leaves shuts the sockets down, and the thread ends, too.
    """

    def __init__(self, within: requests.Session, url: str, timeout_s: float, max_bytes: int):
        super().__init__(name="fetch", daemon=True)
        self._within, self._url = within, url
        self._timeout_s, self._max_bytes = timeout_s, max_bytes
        # Guards `_sockets` and `_left`.
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._left = False
        self.result: Future[tuple[int, bytes]] = Future()

    def run(self) -> None:
        try:
            self.result.set_result(self._get())
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = f"{self._url} does not answer: {error}"
            self.result.set_exception(AilurusError(reason))
        # Whatever it is, it belongs to the caller's thread.
        except Exception as error:  # noqa: BLE001
            self.result.set_exception(error)
        finally:
            with self._lock:
                for one in self._sockets:
                    one.close()
                self._sockets.clear()

    def _get(self) -> tuple[int, bytes]:
        body = bytearray()
        with self._within.get(
            self._url,
            # requests takes urllib3's, which bounds the connection and the answer together.
            timeout=urllib3.Timeout(total=self._timeout_s),  # type: ignore[arg-type]
            allow_redirects=False,
            stream=True,
        ) as answer:
            # With a bound: without one, read1 makes room for as much as the server announces,
            # unpacks all that it gets, and does not notice an answer that ends too early.
            while piece := answer.raw.read1(PIECE, decode_content=True):
                body += piece
                if len(body) > self._max_bytes:
                    raise AilurusError(
                        f"{self._url} answers with more than {self._max_bytes} bytes"
                    )
            return answer.status_code, bytes(body)

    def uses(self, connected: socket.socket) -> None:
        """Note a connection of this exchange, before TLS takes its socket over."""
        # A second descriptor of the same connection, as TLS closes the first.
        also = socket.socket(fileno=os.dup(connected.fileno()))
        with self._lock:
            self._sockets.append(also)
            if self._left:
                _shut(also)

    def leave(self) -> None:
        """Shut down what it uses, now and later."""
        with self._lock:
            self._left = True
            for one in self._sockets:
                _shut(one)


def _shut(connected: socket.socket) -> None:
    # The peer may have closed it before.
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class _Http(HTTPConnection):
    """Tells the exchange that it belongs to which sockets it uses."""

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        _noted(made)
        return made

    def request(self, *words: Any, **options: Any) -> None:
        # It may stand from an earlier exchange.
        if self.sock is not None:
            _noted(self.sock)
        super().request(*words, **options)


class _Https(_Http, HTTPSConnection):
    pass


def _noted(connected: socket.socket) -> None:
    exchange = threading.current_thread()
    if isinstance(exchange, _Exchange):
        exchange.uses(connected)


_POOLS = pools(_Http, _Https)


class _Adapter(HTTPAdapter):
    """Verifies servers by the TLS options given here: requests itself would trust certifi's too."""

    def __init__(self, **tls: Any) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **options, **self._tls)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options, **self._tls)
        manager.pool_classes_by_scheme = _POOLS
        return manager

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
    made.mount("http://", _Adapter())
    made.mount("https://", _Adapter(ssl_context=context, **tls))
    return made


def get(
    within: requests.Session, url: str, *, timeout_s: float, max_bytes: int = MIB
) -> tuple[int, bytes]:
    """Status and body of the answer at `url`. A redirect is an answer like others: it is not
    followed.

    Raises AilurusError when no whole answer of at most `max_bytes` comes within `timeout_s`.
    """
    exchange = _Exchange(within, url, timeout_s, max_bytes)
    exchange.start()
    try:
        return exchange.result.result(timeout_s)
    except TimeoutError:
        exchange.leave()
        raise AilurusError(f"{url} does not answer within {timeout_s:g} s") from None


def document(
    within: requests.Session, url: str, *, timeout_s: float, max_bytes: int = MIB
) -> bytes:
    """The body at `url`. Raises AilurusError as `get` does, and when the status is not 200."""
    status, body = get(within, url, timeout_s=timeout_s, max_bytes=max_bytes)
    if status != 200:
        raise AilurusError(f"{url} answers {status}")
    return body
