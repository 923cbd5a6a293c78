"""http and https URLs that the site's allow-list covers."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import urllib3
from msgspec import Struct

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from ailurus.wire.opening import TooLong, at_most, watching
from pilot.ports import Check, Copied, Found, JobError, LeftBehind
from plugins.data.http_bodies import Copy, Measured, Version, pieces_of
from plugins.data.http_errors import (
    AT_SERVER,
    BrokeOff,
    Exists,
    NoParent,
    Unsupported,
    refused,
)
from plugins.data.http_identity import OfSite, OfUser
from plugins.data.http_requests import Requests, finish
from plugins.data.http_servers import OneAtATime

# How long the removal of a file may take, redirects and all.
DELETE_S = 60.0
# How long a server may take for the sum of a file that it got, beside what it takes to read it.
DIGEST_S, DIGEST_BYTES_S = 5.0, 100e6
# How often a download that broke off is continued.
CONTINUED = 5


class Http:
    """GET inputs, PUT outputs. A redirect is held to the same rules as the URL itself.

    What a URL carries of secrets stays with it: a redirect to elsewhere has its own, or none.
    """

    class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """What a site says of its own storage."""

        token_file: str = ""
        """A bearer token; read for each file. `wlcg-discovery`: it is looked for where the WLCG
        says."""
        proxy: str = ""
        """An X.509 proxy; a renewed one is used from the next file on."""
        token_for: tuple[str, ...] = ()
        """Prefixes of URLs that get them. Left out: those of the site's outputs."""

    def __init__(
        self,
        *,
        http_allow: Sequence[str] = (),
        http_proxy: str = "",
        ca: str = "",
        options: Mapping[str, Any] | None = None,
        **_: object,
    ) -> None:
        said = _said(options or {})
        only = [Url.parse(prefix).web for prefix in said.token_for]
        site = OfSite(said.token_file, said.proxy, only)
        self._requests = Requests(http_allow, site, proxy=http_proxy, ca=ca)
        # A server is asked for one sum at a time, see decision 0310.
        self._one_sum = OneAtATime()
        # URLs of files that may be there in part.
        self._partial: set[str] = set()

    def as_user(self, token: str, proxy: str) -> Http:
        """See `pilot.ports.TakesUsers`; for all that the site lets jobs use by https."""
        made = copy.copy(self)
        identity = OfUser("".join(token.split()), proxy)
        vars(made).update(_requests=self._requests.as_user(identity))
        return made

    def allowed(self, url: Url) -> None:
        self._requests.allowed(url)

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        with watching(check):
            return self._get(url, Copy(into, check, md5=md5))

    def _get(self, url: Url, copy: Copy) -> Copied:
        """All of a file: what breaks off on the way is continued while there is progress."""
        answer = self._requests.ask("GET", url.web, None, Code.STAGE_IN_FAILED)
        version = Version.of(answer.headers)
        tries_left, before = CONTINUED, 0
        while True:
            try:
                copy.take(answer, url)
                answer.release_conn()
                if version.size not in {None, copy.size}:
                    raise JobError(
                        Code.STAGE_IN_FAILED,
                        f"{url}: {copy.size} bytes came, and the server said {version.size}",
                        remedy=AT_SERVER,
                    )
                return copy.copied
            except urllib3.exceptions.HTTPError as error:
                # Short read, stall, reset.
                broken = JobError(
                    Code.STAGE_IN_FAILED,
                    f"{url}: broke off after {copy.size} bytes ({error})",
                    remedy=AT_SERVER,
                )
            finally:
                answer.close()
            if not (tries_left and version.mark and copy.size > before):
                raise broken
            tries_left, before = tries_left - 1, copy.size
            rest = version.rest(copy.size)
            answer = self._requests.ask("GET", url.web, None, Code.STAGE_IN_FAILED, rest)
            if answer.status != 206:
                copy.again()
                version = Version.of(answer.headers)
            elif not version.continued(answer.headers, copy.size):
                answer.close()
                raise broken

    def listed(self, url: Url, check: Check) -> Sequence[Found]:
        """See `pilot.ports.Lister`; of `dav:` and `davs:`."""
        # Late: most jobs list nothing.
        from plugins.data import http_listing

        def ask(directory: Url) -> Iterator[bytes]:
            how = {**http_listing.HEADERS, "Content-Length": str(len(http_listing.ASKED))}
            code, there = Code.STAGE_IN_FAILED, directory.web
            try:
                answer = self._requests.ask("PROPFIND", there, http_listing.ASKED, code, how)
            except Unsupported as error:
                raise http_listing.lists_nothing(directory, error) from None
            try:
                if answer.status != 207:
                    raise http_listing.lists_nothing(directory, refused(there, answer.status, code))
                yield from pieces_of(answer)
            except urllib3.exceptions.HTTPError as error:
                what = f"{directory}: the list broke off ({error})"
                raise BrokeOff(code, what, remedy=AT_SERVER) from None
            finally:
                answer.close()

        with watching(check):
            return http_listing.listed(url, ask)

    def put(self, source: int, url: Url, check: Check) -> Copied:
        try:
            return self._put(source, url, check)
        except JobError as error:
            silent = isinstance(error, BrokeOff) or error.code is Code.STAGE_OUT_TIMEOUT
            if url.web.sent in (
                self._partial | self._requests.sent_whole if silent else self._partial
            ):
                raise LeftBehind(error) from None
            raise

    def _put(self, source: int, url: Url, check: Check) -> Copied:
        dav, url = url.scheme in {"dav", "davs"}, url.web
        body = Measured(source)
        with watching(check):
            if url.sent in self._partial:
                # Or its name would be taken.
                self._delete(url)
                self._partial.discard(url.sent)
            try:
                try:
                    answer = self._requests.ask("PUT", url, body, Code.STAGE_OUT_FAILED)
                except NoParent:
                    self._make_parents(url)
                    answer = self._requests.ask("PUT", url, body, Code.STAGE_OUT_FAILED)
                finish(answer)
                if body.size == body.length:
                    compared = dav and self._compared(url, body, check)
                    if not compared and _says_more(answer):
                        self._look_for(url, body.length, check)
            except Exists:
                if url.sent not in self._requests.sent_whole:
                    raise
                self._check_arrived(url, body)
                if dav:
                    self._compared(url, body, check)
            except JobError as error:
                if body.size == body.length:
                    self._requests.sent_whole.add(url.sent)
                elif body.size and isinstance(error, BrokeOff):
                    # Some servers keep what came of it.
                    self._partial.add(url.sent)
                    with suppress(JobError):
                        self.delete(url)
                        self._partial.discard(url.sent)
                elif body.size and error.code is Code.STAGE_OUT_TIMEOUT:
                    self._partial.add(url.sent)
                raise
        self._requests.sent_whole.discard(url.sent)
        if body.size != body.length:
            raise JobError(
                Code.STAGE_OUT_FAILED,
                f"{url}: success was answered after {body.size} of the file's {body.length} bytes",
                remedy="does something else answer at that address, a proxy or a portal?",
            )
        return Copied(size=body.size, adler32=f"{body.adler:08x}")

    def _make_parents(self, url: Url) -> None:
        """Make the directories that a file needs, from the top; those above what the site allows
        are its own. Raises JobError."""
        parents: list[Url] = []
        here = url.parent
        while any(here.within(prefix) for prefix in self._requests.prefixes) and here.path != "/":
            parents.append(here)
            here = here.parent
        for parent in reversed(parents):
            finish(self._requests.once("MKCOL", parent, None, Code.STAGE_OUT_FAILED))
            # 405: it exists. What else a server says, the upload that follows tells.

    def _compared(self, url: Url, body: Measured, check: Check) -> bool:
        """Compare a file with what the server has of it; whether it told its adler32. One that
        differs is removed. Raises JobError(PUT_ADLER_MISMATCH)."""
        with self._one_sum.at(url, check):
            told = self._told(url, DIGEST_S + body.length / DIGEST_BYTES_S, check)
        if told is None or told == body.adler:
            return told is not None
        self._delete(url)
        raise JobError(
            Code.PUT_ADLER_MISMATCH,
            f"{url} has adler32 {told:08x} at its server, and {body.adler:08x} was sent",
            remedy="the file is damaged on the way or at the server; the job is tried again",
        )

    def _told(self, url: Url, patience_s: float, check: Check) -> int | None:
        """The server's adler32 of a file, within twice `patience_s`; None: it tells none. Raises
        what `check` raises: that its job stops says nothing of the file."""
        code = Code.STAGE_OUT_FAILED
        # XRootD may lose its answer (its issue 2534), and has the sum when it is asked again.
        for _ in range(2):
            try:
                with at_most(patience_s):
                    answer = self._requests.ask("HEAD", url, None, code, sum_s=patience_s)
            except (BrokeOff, TooLong):
                continue
            except JobError:
                check()
                return None
            finish(answer)
            return _adler32(answer.headers.get("Digest", ""))
        return None

    def _look_for(self, url: Url, size: int, check: Check) -> None:
        """Raise JobError if no file of `size` bytes is there, and what `check` raises. Who does not
        let us look is believed."""
        try:
            answer = self._requests.ask("HEAD", url, None, Code.STAGE_OUT_FAILED)
        except JobError as error:
            check()
            if error.code is not Code.NO_SUCH_FILE:
                return
            there = "nothing is there"
        else:
            finish(answer)
            length = answer.headers.get("Content-Length")
            html = "html" in answer.headers.get("Content-Type", "")
            if length == str(size) or (length is None and not html):
                return
            there = f"what is there has {length or 'no known number of'} bytes"
        raise JobError(
            Code.STAGE_OUT_FAILED,
            f"{url}: a file of {size} bytes was answered with success, but {there}",
            remedy="does something else answer at that address, a proxy or a portal?",
        )

    def _check_arrived(self, url: Url, body: Measured) -> None:
        """Measure a file that came by an earlier try whose answer was lost: a name has one writer.
        Raises JobError if less of it came."""
        answer = self._requests.ask("HEAD", url, None, Code.STAGE_OUT_FAILED)
        finish(answer)
        if answer.headers.get("Content-Length") != str(body.length):
            self._partial.add(url.sent)
            why = f"{url}: an earlier try left a part of the file there"
            raise JobError(Code.STAGE_OUT_FAILED, why, remedy=AT_SERVER)
        body.rewind()
        # Reading measures it.
        for _ in body.pieces():
            continue

    def delete(self, url: Url) -> None:
        deadline = time.monotonic() + DELETE_S

        def check() -> None:
            if time.monotonic() > deadline:
                raise JobError(
                    Code.STAGE_OUT_TIMEOUT,
                    f"{url} was not removed within {DELETE_S:.0f} s",
                    remedy="is the storage slow? It is tried again",
                )

        with watching(check):
            self._delete(url)

    def _delete(self, url: Url) -> None:
        try:
            finish(self._requests.ask("DELETE", url.web, None, Code.STAGE_OUT_FAILED))
        except JobError as error:
            if error.code is not Code.NO_SUCH_FILE:
                raise


def _said(options: Mapping[str, Any]) -> Http.Options:
    """Raises AilurusError for options that are none."""
    try:
        return msgspec.convert(options, Http.Options)
    except msgspec.ValidationError as error:
        remedy = "`harvester-edge lint` names line and remedy"
        raise AilurusError(f"storage.http: {error}", remedy=remedy) from None


def _adler32(digest: str) -> int | None:
    """Of a `Digest` header, as RFC 3230 has it."""
    found = re.search(r"(?:^|[,\s])adler32=([0-9a-f]{1,8})(?![^,\s])", digest, re.IGNORECASE)
    return int(found[1], 16) if found else None


def _says_more(answer: urllib3.BaseHTTPResponse) -> bool:
    """Whether a success may be another's than a store's: those say «created», or nothing."""
    empty = answer.headers.get("Content-Length") == "0"
    return answer.status not in {201, 204} and not empty
