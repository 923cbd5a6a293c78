"""What a request to another server trusts, follows and waits for: real servers on loopback."""

from __future__ import annotations

import gzip
import hashlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme
import urllib3

from ailurus import fetch
from ailurus.protocol.errors import AilurusError
from tests.rig.web import page, serving


def got(url: str, *, timeout_s: float = 5.0, max_bytes: int = 1000, **trust: str) -> bytes:
    with fetch.session(**trust) as session:
        return fetch.document(session, url, timeout_s=timeout_s, max_bytes=max_bytes)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1")


@pytest.fixture
def secure(certificate: trustme.LeafCert) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with serving(page(b"secure"), context) as url:
        yield url


def test_the_named_authority_is_trusted_and_no_other(secure, authority, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert got(secure, ca=str(tmp_path / "ca.pem")) == b"secure"
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for trust in ({"ca": str(tmp_path / "other.pem")}, {}):
        with pytest.raises(AilurusError, match=r"(?i)certificate verify failed"):
            got(secure, **trust)


def test_a_pinned_certificate_is_trusted_whoever_signed_it(secure, certificate) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    pin = hashlib.sha256(der).hexdigest()
    assert got(secure, pin=pin) == b"secure"
    with pytest.raises(AilurusError, match=r"(?i)fingerprint"):
        got(secure, pin="0" * 64)


def test_the_environment_names_neither_authorities_nor_logins_nor_proxies(
    secure, authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login alice password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(AilurusError, match=r"(?i)certificate verify failed"):
        got(secure)
    seen = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["Authorization"])
        page()(request)

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving(answer) as url:
        assert got(url) == b"{}"
    assert seen == [None]


def test_a_named_proxy_is_used() -> None:
    paths = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        paths.append(request.path)
        page(b"by proxy")(request)

    with serving(answer) as proxy:
        assert got("http://192.0.2.1/keys", proxy=proxy) == b"by proxy"
    assert paths == ["http://192.0.2.1/keys"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    asked = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        page(status=status, Location="/elsewhere")(request)

    with serving(answer) as url, pytest.raises(AilurusError, match=f"answers {status}"):
        got(f"{url}/keys")
    assert asked == ["/keys"]


def test_an_answer_that_is_too_long_is_not_read_to_its_end() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000000")
        request.end_headers()
        request.wfile.write(b"x" * 2000)

    with serving(page(b"x" * 1000)) as url:
        assert len(got(url)) == 1000
    with serving(answer) as url, pytest.raises(AilurusError, match="more than 1000 bytes"):
        got(url)


@pytest.mark.parametrize(
    "header",
    [
        {"Content-Length": "99999999999999999"},
        {"Content-Length": "9" * 30},
        {"Transfer-Encoding": "chunked"},
    ],
    ids=["long", "longer", "chunk"],
)
def test_an_answer_need_not_be_as_long_as_it_says(header: dict[str, str]) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        for name, value in header.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"7fffffffffffffff\r\nabc")
        request.close_connection = True

    with serving(answer) as url, pytest.raises(AilurusError, match="does not answer"):
        got(url)


def test_an_answer_that_ends_too_early_is_none() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "5")
        request.end_headers()
        request.wfile.write(b"ab")

    with serving(answer) as url, pytest.raises(AilurusError, match="does not answer"):
        got(url)


def test_no_more_is_unpacked_than_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    unpack = urllib3.response.GzipDecoder.decompress

    def noted(self: object, data: bytes, max_length: int = -1) -> bytes:
        nonlocal longest
        piece = unpack(self, data, max_length)
        longest = max(longest, len(piece))
        return piece

    monkeypatch.setattr(urllib3.response.GzipDecoder, "decompress", noted)
    bomb = gzip.compress(gzip.compress(bytes(30_000_000)))
    answer = page(bomb, **{"Content-Encoding": "gzip, gzip"})
    with serving(answer) as url, pytest.raises(AilurusError, match="more than 1000 bytes"):
        got(url)
    assert 1000 < longest < 10 * fetch.PIECE


def dribble(request: BaseHTTPRequestHandler, ended: threading.Event) -> None:
    """Send a byte now and then, until the client has closed the connection."""
    request.close_connection = True
    try:
        while not ended.wait(0.01):
            request.wfile.write(b"x")
    except OSError:
        ended.set()


@pytest.mark.parametrize("part", ["status", "header", "body"])
def test_an_answer_that_dribbles_has_an_end(part: str) -> None:
    ended = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if part != "status":
            request.send_response(200)
            request.send_header("Content-Length", "100000")
            request.flush_headers()
        if part == "body":
            request.end_headers()
        dribble(request, ended)

    with serving(answer) as url:
        with pytest.raises(AilurusError, match=r"does not answer within 0\.1 s"):
            got(url, timeout_s=0.1)
        assert ended.wait(10), "the connection is still open"


def test_an_answer_on_a_connection_that_is_used_again_has_an_end() -> None:
    ended, clients = threading.Event(), []

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.close_connection = False
        clients.append(request.client_address)
        if request.path == "/whole":
            page(b"whole")(request)
        else:
            dribble(request, ended)

    with serving(answer) as url, fetch.session() as session:
        assert fetch.document(session, f"{url}/whole", timeout_s=5) == b"whole"
        with pytest.raises(AilurusError, match=r"does not answer within 0\.1 s"):
            fetch.get(session, f"{url}/dribbles", timeout_s=0.1)
        assert ended.wait(10), "the connection is still open"
    assert clients[0] == clients[1]


def test_silence_ends_in_time() -> None:
    ends = threading.Event()
    with serving(lambda _: ends.wait()) as url:
        with pytest.raises(AilurusError, match="does not answer"):
            got(url, timeout_s=0.1)
        ends.set()


def test_a_file_of_authorities_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(AilurusError, match=r"cannot use the authorities in .*missing\.pem"):
        fetch.session(ca=str(tmp_path / "missing.pem"))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(AilurusError, match=r"empty\.pem"):
        fetch.session(ca=str(tmp_path / "empty.pem"))
