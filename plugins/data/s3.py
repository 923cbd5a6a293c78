"""`s3:` URLs, by urllib3's kept connections and botocore's signer alone.

`s3://BUCKET/KEY` where the site names its endpoint, else `s3://HOST:PORT/BUCKET/KEY`. An object is
whole or not there; it carries its adler32 as metadata, by which a download is checked and an upload
whose answer was lost is known again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import urllib3
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.trees import is_listed, listing, matches_pieces
from ailurus.protocol.url import Url
from ailurus.wire.connection import POOLS, verifying
from ailurus.wire.watched import read_into
from pilot.ports import Found, JobError, LeftBehind, Moved, Mover, Tell, ToGet, ToPut
from plugins.data.checksums import Checksums
from plugins.data.moving import (
    BLOCK,
    Failure,
    Parallel,
    Stall,
    Way,
    drop,
    each_in_threads,
    failure,
    few,
    local_failure,
    measured,
    padded,
    patience_s,
)
from plugins.data.s3_keys import signer
from plugins.data.xml_records import BadXml, Records

PART_BYTES = 64 << 20
"""Of an upload in parts; larger files go so."""
MOST_WORDS = 8 << 20
"""Bytes of an answer that is no object: a page of a list has a thousand keys."""
_DONE = {"GET": {200}, "HEAD": {200}, "PUT": {200, 201}, "POST": {200}, "DELETE": {200, 204}}
"""What says that all is done: others of HTTP's successes have a part of an object in them, or
nothing yet."""
_SIZE = re.compile(r"[0-9]{1,18}")
_ADLER32 = "x-amz-meta-adler32"
_BY_CODE = {
    "NoSuchKey": Failure.MISSING,
    "NoSuchBucket": Failure.MISSING,
    "NoSuchUpload": Failure.FAILED,
    "PreconditionFailed": Failure.EXISTS,
    "AccessDenied": Failure.DENIED,
    "AllAccessDisabled": Failure.DENIED,
    "InvalidAccessKeyId": Failure.UNKNOWN_USER,
    "SignatureDoesNotMatch": Failure.UNKNOWN_USER,
    "ExpiredToken": Failure.UNKNOWN_USER,
    "InvalidToken": Failure.UNKNOWN_USER,
    "RequestTimeTooSkewed": Failure.UNKNOWN_USER,
    "QuotaExceeded": Failure.FULL,
    "InsufficientCapacity": Failure.FULL,
    "KeyTooLongError": Failure.BAD_NAME,
    "InvalidObjectName": Failure.BAD_NAME,
    "BadDigest": Failure.WRONG,
    "SlowDown": Failure.BUSY,
    "ServiceUnavailable": Failure.BUSY,
    "RequestTimeout": Failure.STALLED,
    "NotImplemented": Failure.UNSUPPORTED,
}
_BY_STATUS = {
    401: Failure.UNKNOWN_USER,
    403: Failure.DENIED,
    404: Failure.MISSING,
    408: Failure.STALLED,
    412: Failure.EXISTS,
    429: Failure.BUSY,
    501: Failure.UNSUPPORTED,
    503: Failure.BUSY,
    507: Failure.FULL,
}


def kind(status: int, body: bytes) -> Failure:
    """What a refusal says is wrong: by S3's code, else by HTTP's."""
    found = re.search(rb"<Code>(\w{1,64})</Code>", body)
    by_code = _BY_CODE.get(found[1].decode()) if found else None
    return by_code or _BY_STATUS.get(status, Failure.FAILED)


class _Refused(JobError):
    """A server's answer that is no success; which failure it is decides what follows."""

    def __init__(self, way: Way, problem: Failure, url: Url, status: int) -> None:
        error = failure(way, problem, url, f"HTTP {status}")
        super().__init__(error.code, error.message, remedy=error.remedy, transient=error.transient)
        self.problem = problem


class S3(Mover):
    """Moves objects, several at a time."""

    class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """What a site says of its S3 storage."""

        endpoint: str = ""
        """As https://s3.example.org; empty: the host of each URL, by https."""
        region: str = "default"
        keys_file: str = ""
        """As AWS's credentials: `[default]`, `aws_access_key_id`, `aws_secret_access_key`; for
        nobody else to read; read again for each batch. Empty: what is public."""
        ca: str = ""
        """A file of certificates of authorities."""
        parallel: Parallel = 4
        stall: Stall = 60

    def __init__(self, options: Options) -> None:
        self._options = options
        self._endpoint = Url.parse(options.endpoint) if options.endpoint else None
        self._sign = signer(options.keys_file, options.region)
        more: dict[str, Any] = {}
        if self._endpoint is None or self._endpoint.scheme == "https":
            more["ssl_context"] = verifying(options.ca)
        self._pool = urllib3.PoolManager(
            maxsize=options.parallel,
            retries=False,
            timeout=urllib3.Timeout(connect=10.0, read=patience_s(options.stall)),
            **more,
        )
        self._pool.pool_classes_by_scheme = POOLS

    def _renew(self) -> None:
        """Read the keys again, for somebody may have renewed them. Raises JobError."""
        self._sign = signer(self._options.keys_file, self._options.region)

    def get(self, files: Sequence[ToGet], tell: Tell) -> None:
        self._renew()
        each_in_threads(Way.IN, files, tell, self._get, self._options.parallel)

    def put(self, files: Sequence[ToPut], tell: Tell) -> None:
        self._renew()
        each_in_threads(Way.OUT, files, tell, self._put, self._options.parallel)

    def delete(self, urls: Sequence[str]) -> Mapping[str, str]:
        self._renew()
        left = {}
        for text in urls:
            try:
                self._ask("DELETE", Url.parse(text), Way.OUT)
            except _Refused as error:
                if error.problem is not Failure.MISSING:
                    left[text] = str(error)
            except AilurusError as error:
                left[text] = str(error)
        return left

    def expand(self, url: str) -> Sequence[Found]:
        self._renew()
        top = Url.parse(url)
        if is_listed(top):
            # There may be an object of a directory's name, which is no file.
            return few(self._listed(*listing(top)), url)
        try:
            answer = self._ask("HEAD", top, Way.IN)
        except _Refused as error:
            if error.problem is not Failure.MISSING or not (found := few(self._listed(top), url)):
                raise
            return found
        length = answer.headers.get("Content-Length", "")
        if not _SIZE.fullmatch(length):
            raise failure(Way.IN, Failure.FAILED, top, "the object has no size")
        return [Found(name=top.name, url=url, size=int(length))]

    def _listed(self, directory: Url, pieces: Sequence[str] = ()) -> Iterator[Found]:
        """The objects whose keys begin with a directory's name; or those right in it that match a
        glob."""
        bucket, key = self._object(directory)
        prefix = unquote(key).rstrip("/") + "/"
        token: str | None = ""
        while token is not None:
            query = {"list-type": "2", "prefix": prefix}
            query |= {"delimiter": "/"} if pieces else {}
            query |= {"continuation-token": token} if token else {}
            page = Records("Contents", ("Key", "Size", "NextContinuationToken"))
            answer = self._ask("GET", bucket, Way.IN, query=query).data
            for entry in _entries(page, answer, directory):
                name = entry.get("Key", "").removeprefix(prefix)
                odd = not name or name.endswith("/") or ".." in name.split("/")
                if odd or (pieces and not matches_pieces(pieces, name)):
                    continue
                size = int(entry["Size"])
                url = reduce(Url.joined, name.split("/"), directory)
                yield Found(name=name, url=url.text, size=size)
            before, token = token, page.beside.get("NextContinuationToken") or None
            if token is not None and token == before:
                raise failure(Way.IN, Failure.FAILED, directory, "its list has no end")

    def _get(self, file: ToGet, url: Url, progress: Callable[[int], None]) -> Moved:
        answer = self._opened("GET", url, Way.IN)
        if answer.length_remaining is None and not getattr(answer, "chunked", False):
            # Of a body that ends with its connection nobody knows whether that was all.
            answer.close()
            raise failure(Way.IN, Failure.FAILED, url, "the object comes without its length")
        seen = Checksums(md5=file.md5 is not None)
        try:
            into = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(into, "wb", buffering=0) as copy:
                buffer = memoryview(bytearray(BLOCK))
                while got := read_into(answer, buffer):
                    piece = buffer[:got]
                    seen.add(piece)
                    while piece:
                        piece = piece[copy.write(piece) :]
                    progress(seen.size)
            answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            drop(file.path)
            raise _broken(Way.IN, url, error) from None
        except OSError as error:
            drop(file.path)
            raise local_failure(error.errno or 0, f"cannot write its copy of {url}") from None
        finally:
            answer.close()
        ours = seen.copied
        theirs = answer.headers.get(_ADLER32)
        if theirs is not None and padded(theirs) != ours.adler32:
            drop(file.path)
            raise failure(Way.IN, Failure.WRONG, url, f"{ours.adler32}, there {theirs}")
        return Moved(key=file.key, size=ours.size, adler32=ours.adler32, md5=ours.md5)

    def _put(self, file: ToPut, url: Url, progress: Callable[[int], None]) -> Moved:
        ours = measured(file.path)
        moved = Moved(key=file.key, size=ours.size, adler32=ours.adler32)
        if (there := self._there(url)) is not None:
            # It may be ours, of a try whose answer was lost: a name has one writer.
            if there == ours.adler32:
                return moved
            raise failure(Way.OUT, Failure.EXISTS, url)
        # No server is asked for `If-None-Match`: not all of them know it for uploads.
        try:
            if ours.size > PART_BYTES:
                self._in_parts(file, url, ours.adler32, progress)
            else:
                with Path(file.path).open("rb") as source:
                    headers = {_ADLER32: ours.adler32}
                    self._ask("PUT", url, Way.OUT, body=source.read(), headers=headers)
        except _Refused:
            raise
        except JobError as error:
            # The answer may be lost of an object that is there.
            raise LeftBehind(error) from None
        return moved

    def _there(self, url: Url) -> str | None:
        """The adler32 of what is there, or "" of what has none; None: nothing is there."""
        try:
            return self._ask("HEAD", url, Way.OUT).headers.get(_ADLER32, "")
        except _Refused as error:
            if error.problem is Failure.MISSING:
                return None
            raise

    def _in_parts(
        self, file: ToPut, url: Url, adler32: str, progress: Callable[[int], None]
    ) -> None:
        begun = self._ask(
            "POST", url, Way.OUT, query={"uploads": ""}, headers={_ADLER32: adler32}
        ).data
        found = re.search(rb"<UploadId>([^<]+)</UploadId>", begun)
        if found is None:
            raise failure(Way.OUT, Failure.FAILED, url, "no upload in parts was begun")
        upload = {"uploadId": found[1].decode()}
        try:
            tags: list[str] = []
            with Path(file.path).open("rb") as source:
                while block := source.read(PART_BYTES):
                    query = {"partNumber": str(len(tags) + 1), **upload}
                    part = self._ask("PUT", url, Way.OUT, query=query, body=block)
                    tags.append(part.headers.get("ETag", ""))
                    progress(source.tell())
            done = self._ask("POST", url, Way.OUT, query=upload, body=completion(tags)).data
            # A failure may come after the success of its headers.
            if b"<Error>" in done:
                raise _Refused(Way.OUT, kind(200, done), url, 200)
        except BaseException:
            self._abort(url, upload)
            raise

    def _abort(self, url: Url, upload: dict[str, str]) -> None:
        try:
            self._ask("DELETE", url, Way.OUT, query=upload)
        except JobError:
            return

    def _object(self, url: Url) -> tuple[Url, str]:
        """The bucket, as an http URL, and the key in it, encoded. Raises AilurusError."""
        if self._endpoint is None:
            server = Url("https", url.host, port=url.port)
            bucket, _, key = url.path.lstrip("/").partition("/")
        else:
            server = Url(self._endpoint.scheme, self._endpoint.host, port=self._endpoint.port)
            bucket, key = url.host, url.path.lstrip("/")
        if not bucket or not key:
            raise AilurusError(
                f"{url} names no bucket or no key",
                remedy="write s3://BUCKET/KEY, or s3://HOST/BUCKET/KEY where the site names no endpoint",
            )
        return Url(server.scheme, server.host, f"/{bucket}", port=server.port), key

    def _ask(
        self,
        method: str,
        url: Url,
        way: Way,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        """What a gateway says, with a status of success. Raises JobError."""
        answer = self._opened(method, url, way, query=query, body=body, headers=headers)
        try:
            return _Answer(answer.headers, _words(answer))
        except urllib3.exceptions.HTTPError as error:
            raise _broken(way, url, error) from None

    def _opened(
        self,
        method: str,
        url: Url,
        way: Way,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer with a status of success, its body still to be read. Raises JobError."""
        if url.scheme == "s3":
            bucket, key = self._object(url)
            target = f"{bucket.sent}/{quote(unquote(key), safe='/~')}"
        else:
            target = url.sent
        if query:
            pairs = (f"{name}={quote(value, safe='~')}" for name, value in sorted(query.items()))
            target += "?" + "&".join(pairs)
        try:
            signed = self._sign(method, target, {"Accept-Encoding": "identity", **(headers or {})})
            answer = self._pool.request(
                method,
                target,
                body=body,
                headers=signed,
                redirect=False,
                preload_content=False,
            )
            if answer.status in _DONE[method]:
                return answer
            said = _words(answer)
        except urllib3.exceptions.HTTPError as error:
            raise _broken(way, url, error) from None
        raise _Refused(way, kind(answer.status, said), url, answer.status)


class _Answer(NamedTuple):
    """Of a gateway, where it brings no object."""

    headers: Mapping[str, str]
    data: bytes


def _words(answer: urllib3.BaseHTTPResponse) -> bytes:
    """What an answer says, of which no more is read than any has. Raises HTTPError."""
    found = answer.read(MOST_WORDS + 1, decode_content=False)
    if len(found) > MOST_WORDS:
        answer.close()
        raise urllib3.exceptions.HTTPError(f"an answer of more than {MOST_WORDS} bytes")
    answer.release_conn()
    return found


def _entries(page: Records, answer: bytes, directory: Url) -> list[Mapping[str, str]]:
    """The objects that a list names, each with a size. Raises JobError."""
    try:
        found = list(page.of([answer]))
    except BadXml as error:
        raise failure(
            Way.IN, Failure.FAILED, directory, f"the answer is no list: {error}"
        ) from None
    if not all(_SIZE.fullmatch(one.get("Size", "")) for one in found):
        raise failure(Way.IN, Failure.FAILED, directory, "an object is listed without its size")
    return found


def completion(tags: Sequence[str]) -> bytes:
    """The document that puts an upload's parts together."""
    parts = (
        f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
        for number, tag in enumerate(tags, 1)
    )
    return f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()


def _broken(way: Way, url: Url, error: Exception) -> JobError:
    """The error of a connection: urllib3's classes say what happened."""
    known = (
        (urllib3.exceptions.SSLError, Failure.UNTRUSTED),
        (urllib3.exceptions.NewConnectionError, Failure.UNREACHABLE),
        (urllib3.exceptions.ConnectTimeoutError, Failure.UNREACHABLE),
        (urllib3.exceptions.TimeoutError, Failure.STALLED),
    )
    problem = next((one for kinds, one in known if isinstance(error, kinds)), Failure.FAILED)
    return failure(way, problem, url, type(error).__name__)
