"""http and https URLs that the site's allow-list covers."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from hashlib import md5 as new_md5
from urllib.parse import unquote_to_bytes

import urllib3

from ailurus import __version__
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url, shown
from pilot.ports import Check, Copied, JobError

BLOCK = 1 << 18
STALL_S = 60.0  # how long a server may say nothing
REDIRECTS = 5


class Http:
    """GET inputs, PUT outputs; a redirect is held to the same rules as the URL itself."""

    def __init__(self, *, roots: Sequence[str] = (), http_allow: Sequence[str] = ()) -> None:
        self._allow = [_place(Url.parse(prefix)) for prefix in http_allow]
        self._pool = urllib3.PoolManager(
            maxsize=4,
            retries=False,
            timeout=urllib3.Timeout(connect=10.0, read=STALL_S),
            headers={"User-Agent": f"ailurus/{__version__}", "Accept-Encoding": "identity"},
        )

    def allowed(self, url: Url) -> None:
        origin, path = _place(url)
        for ok_origin, ok_path in self._allow:
            whole = ok_path if ok_path.endswith("/") else ok_path + "/"
            if origin == ok_origin and (path == ok_path or path.startswith(whole)):
                return
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} is not in this site's storage.http_allow",
            remedy="use the site's storage, or ask its admin to allow that prefix",
        )

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        answer = self._ask("GET", url, None, Code.STAGE_IN_FAILED)
        size, adler = 0, 1
        digest = new_md5(usedforsecurity=False) if md5 else None
        try:
            for block in answer.stream(BLOCK, decode_content=False):
                check()
                adler = zlib.adler32(block, adler)
                if digest is not None:
                    digest.update(block)
                size += len(block)
                piece = memoryview(block)
                while piece:
                    piece = piece[os.write(into, piece) :]
        except urllib3.exceptions.HTTPError as error:  # short read, stall, reset
            raise JobError(
                Code.STAGE_IN_FAILED, f"{url}: broke off after {size} bytes ({shown(str(error))})"
            ) from None
        except OSError as error:
            raise JobError(Code.NO_LOCAL_SPACE, f"{url}: {error.strerror}") from None
        finally:
            answer.close()
        return Copied(size=size, adler32=f"{adler:08x}", md5=digest.hexdigest() if digest else None)

    def put(self, source: int, url: Url, check: Check) -> Copied:
        length = os.fstat(source).st_size
        body = _Measured(source, check)
        self._ask("PUT", url, body, Code.STAGE_OUT_FAILED, length).close()
        if body.size != length:
            raise JobError(Code.STAGE_OUT_FAILED, f"{url}: the file changed while it was sent")
        return Copied(size=body.size, adler32=f"{body.adler:08x}")

    def delete(self, url: Url) -> None:
        try:
            self._ask("DELETE", url, None, Code.STAGE_OUT_FAILED).close()
        except JobError as error:
            if error.code is not Code.NO_SUCH_FILE:
                raise

    def _ask(
        self, method: str, url: Url, body: _Measured | None, code: Code, length: int = 0
    ) -> urllib3.BaseHTTPResponse:
        """The answer with status 2xx, after at most `REDIRECTS` allowed redirects (GET only)."""
        headers = {**self._pool.headers}
        if body is not None:
            headers |= {"Content-Length": str(length), "If-None-Match": "*"}
        for _ in range(REDIRECTS + 1):
            self.allowed(url)
            try:
                answer = self._pool.request(
                    method,
                    url.sent,
                    body=body,
                    headers=headers,
                    redirect=False,
                    preload_content=False,
                )
            except urllib3.exceptions.HTTPError as error:
                raise JobError(code, f"{url}: {shown(str(error))}") from None
            if 200 <= answer.status < 300 and answer.status != 206:
                return answer
            target = answer.headers.get("Location", "")
            answer.close()
            if answer.status in (301, 302, 303, 307, 308) and target and method == "GET":
                url = _redirected(url, target)
                continue
            raise _refused(url, answer.status, code)
        raise JobError(code, f"{url}: more than {REDIRECTS} redirects")


class _Measured:
    """An open file as a request's body, measured while it is sent."""

    def __init__(self, source: int, check: Check) -> None:
        self._source, self._check = source, check
        self.size, self.adler = 0, 1

    def __iter__(self) -> Iterator[bytes]:
        while block := os.read(self._source, BLOCK):
            self._check()
            self.adler = zlib.adler32(block, self.adler)
            self.size += len(block)
            yield block


def _redirected(url: Url, target: str) -> Url:
    try:
        leads = url.redirected(target)
    except AilurusError as error:
        raise JobError(Code.STORAGE_FORBIDDEN, f"{url} redirects badly: {error.message}") from None
    if url.scheme == "https" and leads.scheme != "https":
        raise JobError(Code.STORAGE_FORBIDDEN, f"{url} redirects away from https, to {leads}")
    return leads


def _place(url: Url) -> tuple[tuple[str, str, int], str]:
    """Origin and path of a URL that has nothing ambiguous in it."""
    dotted = any(
        unquote_to_bytes(part) in {b".", b".."}
        for name in url.segments
        for part in name.split(b"/")
    )
    odd = url.userinfo is not None or not url.host or "\\" in url.path
    if url.scheme not in {"http", "https"} or odd or dotted:
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} is not a plain http URL",
            remedy="write https://host/path, without user, `..` or backslash",
        )
    return url.origin, url.path or "/"


def _refused(url: Url, status: int, code: Code) -> JobError:
    if status in (404, 410):
        return JobError(Code.NO_SUCH_FILE, f"{url} does not exist (HTTP {status})")
    if status == 412:
        return JobError(
            code, f"{url} exists already, and outputs overwrite nothing", transient=False
        )
    passing = status in (408, 425, 429) or status >= 500
    return JobError(code, f"{url}: HTTP {status}", transient=passing)
