"""Files moved by plain loops of the standard library, adler32 measured on the way: what every
transfer costs at least."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import ssl
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

BLOCK = 1 << 20
Sign = Callable[[str, str], Mapping[str, str]]
"""Headers of a request, by its method and URL."""


def unsigned(method: str, url: str) -> Mapping[str, str]:
    """Nobody is asked who they are."""
    del method, url
    return {}


def get(urls: Sequence[str], into: Path, ca: str = "", sign: Sign = unsigned) -> float:
    """Seconds for all files by one kept connection to the first's server."""
    buffer = memoryview(bytearray(BLOCK))
    began = time.perf_counter()
    server = _connected(urls[0], ca)
    for number, url in enumerate(urls):
        server.request("GET", _path(url), headers=dict(sign("GET", url)))
        answer = server.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{url}: HTTP {answer.status}")
        adler = 1
        with (into / str(number)).open("xb", buffering=0) as copy:
            while got := answer.readinto(buffer):
                adler = zlib.adler32(buffer[:got], adler)
                copy.write(buffer[:got])
    server.close()
    return time.perf_counter() - began


def put(
    files: Sequence[Path],
    urls: Sequence[str],
    ca: str = "",
    sign: Sign = unsigned,
    *,
    sums: bool = False,
) -> float:
    """Seconds for all uploads, likewise. `sums`: each is compared with the server's adler32, by a
    second connection (decision 0310)."""
    began = time.perf_counter()
    server, asked = _connected(urls[0], ca), _connected(urls[0], ca)
    for file, url in zip(files, urls, strict=True):
        server.putrequest("PUT", _path(url))
        server.putheader("Content-Length", str(file.stat().st_size))
        for name, value in sign("PUT", url).items():
            server.putheader(name, value)
        server.endheaders()
        adler = 1
        with file.open("rb", buffering=0) as source:
            while block := source.read(BLOCK):
                adler = zlib.adler32(block, adler)
                server.send(block)
        answer = server.getresponse()
        answer.read()
        if answer.status not in {200, 201, 204}:
            raise RuntimeError(f"{url}: HTTP {answer.status}")
        if sums:
            asked.request("HEAD", _path(url), headers={"Want-Digest": "adler32"})
            answer = asked.getresponse()
            answer.read()
            if answer.headers["Digest"] != f"adler32={adler:08x}":
                raise RuntimeError(f"{url}: {answer.headers['Digest']} at its server")
    server.close()
    asked.close()
    return time.perf_counter() - began


def copy(files: Sequence[Path], into: Path) -> float:
    """Seconds for all files of this machine."""
    buffer = memoryview(bytearray(BLOCK))
    began = time.perf_counter()
    for number, file in enumerate(files):
        adler = 1
        with file.open("rb", buffering=0) as source, (into / str(number)).open("xb", 0) as there:
            while got := source.readinto(buffer):
                adler = zlib.adler32(buffer[:got], adler)
                there.write(buffer[:got])
    return time.perf_counter() - began


def signer(access_key: str, secret_key: str, region: str = "default") -> Sign:
    """AWS's signature, version 4, of requests whose bodies are not signed."""

    def mac(key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    def sign(method: str, url: str) -> Mapping[str, str]:
        parts = urlsplit(url)
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/{region}/s3/aws4_request"
        headers = {
            "host": parts.netloc,
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "x-amz-date": now,
        }
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        request = f"{method}\n{parts.path}\n{parts.query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        key = f"AWS4{secret_key}".encode()
        for part in scope.split("/"):
            key = mac(key, part)
        signature = mac(key, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}").hex()
        del headers["host"]
        credential = f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}"
        given = f"{credential},SignedHeaders={names},Signature={signature}"
        return {**headers, "Authorization": given}

    return sign


def _connected(url: str, ca: str) -> HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "http":
        return HTTPConnection(parts.netloc, timeout=60)
    context = ssl.create_default_context(cafile=ca or None)
    return HTTPSConnection(parts.netloc, timeout=60, context=context)


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def adler32(file: Path) -> str:
    """Of a file, as jobs declare it."""
    adler = 1
    with file.open("rb") as source:
        while block := source.read(BLOCK):
            adler = zlib.adler32(block, adler)
    return f"{adler:08x}"


def filled(file: Path, size: int) -> Path:
    """A new file of bytes by chance, in blocks that repeat."""
    block = os.urandom(min(BLOCK, size))
    with file.open("xb") as into:
        for at in range(0, size, len(block)):
            into.write(block[: size - at])
    return file
