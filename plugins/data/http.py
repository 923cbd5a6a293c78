"""http and https URLs that the site's allow-list covers."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import urllib3
from msgspec import Struct

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from ailurus.wire.watched import Forgotten, watching
from pilot.ports import Check, Copied, Found, JobError, LeftBehind
from plugins.data.http_bodies import Copy, Measured, Version, pieces_of
from plugins.data.http_errors import (
    AT_SERVER,
    BrokeOff,
    Exists,
    NoParent,
    Unsupported,
    broken,
    plain,
    redirected,
    refused,
)
from plugins.data.http_identity import Identity, OfSite, OfUser
from plugins.data.http_servers import HEADERS, Connections, OneAtATime

# Bytes of a body that is announced first: the receiver may be another.
LARGE = 1 << 20
REDIRECTS = 5
# How long the removal of a file may take, redirects and all.
DELETE_S = 60.0
# How long a server may take for the sum of a file that it got, beside what it takes to read it.
DIGEST_S, DIGEST_BYTES_S = 5.0, 100e6
# How often a download that broke off is continued.
CONTINUED = 5
# Bytes of an answer that are read for its connection's sake.
MOST_WORDS = 1 << 16
# Of a GET: there is no file in it, or not yet.
_WITHOUT_CONTENT = {201, 202, 204, 205}
_ANY = {301, 302, 303, 307, 308}
_LEADS = {
    "GET": _ANY,
    "HEAD": _ANY,
    "PUT": {301, 302, 307, 308},
    "DELETE": {307, 308},
    # The names in a list are of where it is asked for.
    "PROPFIND": set[int](),
}


class Http:
    """GET inputs, PUT outputs. A redirect is held to the same rules as the URL itself.

    What a URL carries of secrets stays with it: a redirect to elsewhere has its own, or none.
    """

    class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """What a site says of its own storage."""

        token_file: str = ""
        """A bearer token; read for each file."""
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
        self._identity: Identity = OfSite(said.token_file, said.proxy, only)
        self._allow = [plain(Url.parse(prefix).web) for prefix in http_allow]
        self._connect = partial(Connections.made, http_proxy, ca)
        self._anonymous = self._connect()
        # Those by the newest proxy.
        self._known: tuple[str, Connections] | None = None
        # A server is asked for one sum at a time, see decision 0310.
        self._one_sum = OneAtATime()
        # URLs of files that were sent whole, perhaps in vain.
        self._unanswered: set[str] = set()
        # And of those that may be there in part.
        self._partial: set[str] = set()

    def as_user(self, token: str, proxy: str) -> Http:
        """See `pilot.ports.TakesUsers`; for all that the site lets jobs use by https."""
        made = copy.copy(self)
        vars(made).update(_identity=OfUser("".join(token.split()), proxy), _known=None)
        return made

    def allowed(self, url: Url) -> None:
        if any(plain(url.web).within(prefix) for prefix in self._allow):
            return
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} is not in this site's storage.http_allow",
            remedy="use the site's storage, or ask its admin to allow that prefix",
        )

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        with watching(check):
            return self._get(url, Copy(into, check, md5=md5))

    def _get(self, url: Url, copy: Copy) -> Copied:
        """All of a file: what breaks off on the way is continued while there is progress."""
        answer = self._ask("GET", url.web, None, Code.STAGE_IN_FAILED)
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
            answer = self._ask("GET", url.web, None, Code.STAGE_IN_FAILED, rest)
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
                answer = self._ask("PROPFIND", there, http_listing.ASKED, code, how)
            except Unsupported as error:
                raise http_listing.lists_nothing(directory, error) from None
            try:
                if answer.status != 207:
                    raise http_listing.lists_nothing(directory, refused(there, answer.status, code))
                yield from pieces_of(answer)
            except urllib3.exceptions.HTTPError as error:
                raise BrokeOff(code, f"{directory}: the list broke off ({error})") from None
            finally:
                answer.close()

        with watching(check):
            return http_listing.listed(url, ask)

    def put(self, source: int, url: Url, check: Check) -> Copied:
        try:
            return self._put(source, url, check)
        except JobError as error:
            silent = isinstance(error, BrokeOff) or error.code is Code.STAGE_OUT_TIMEOUT
            if url.web.sent in (self._partial | self._unanswered if silent else self._partial):
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
                    answer = self._ask("PUT", url, body, Code.STAGE_OUT_FAILED)
                except NoParent:
                    self._make_parents(url)
                    answer = self._ask("PUT", url, body, Code.STAGE_OUT_FAILED)
                _finish(answer)
                if body.size == body.length:
                    compared = dav and self._compared(url, body, check)
                    if not compared and _says_more(answer):
                        self._look_for(url, body.length)
            except Exists:
                if url.sent not in self._unanswered:
                    raise
                self._check_arrived(url, body)
                if dav:
                    self._compared(url, body, check)
            except JobError as error:
                if body.size == body.length:
                    self._unanswered.add(url.sent)
                elif body.size and isinstance(error, BrokeOff):
                    # Some servers keep what came of it.
                    self._partial.add(url.sent)
                    with suppress(JobError):
                        self.delete(url)
                        self._partial.discard(url.sent)
                elif body.size and error.code is Code.STAGE_OUT_TIMEOUT:
                    self._partial.add(url.sent)
                raise
        self._unanswered.discard(url.sent)
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
        while any(here.within(prefix) for prefix in self._allow) and here.path != "/":
            parents.append(here)
            here = here.parent
        for parent in reversed(parents):
            _finish(self._answer("MKCOL", parent, None, Code.STAGE_OUT_FAILED))
            # 405: it exists. What else a server says, the upload that follows tells.

    def _compared(self, url: Url, body: Measured, check: Check) -> bool:
        """Compare a file with what the server has of it; whether it told its adler32. One that
        differs is removed. Raises JobError(PUT_ADLER_MISMATCH)."""
        with self._one_sum.at(url, check):
            told = self._told(url, DIGEST_S + body.length / DIGEST_BYTES_S)
        if told is None or told == body.adler:
            return told is not None
        self._delete(url)
        raise JobError(
            Code.PUT_ADLER_MISMATCH,
            f"{url} has adler32 {told:08x} at its server, and {body.adler:08x} was sent",
            remedy="the file is damaged on the way or at the server; the job is tried again",
        )

    def _told(self, url: Url, patience_s: float) -> int | None:
        """The server's adler32 of a file, within twice `patience_s`; None: it tells none."""
        code = Code.STAGE_OUT_FAILED
        # XRootD may lose its answer (its issue 2534), and has the sum when it is asked again.
        for _ in range(2):
            try:
                answer = self._ask("HEAD", url, None, code, sum_s=patience_s)
            except BrokeOff:
                continue
            except JobError:
                return None
            _finish(answer)
            return _adler32(answer.headers.get("Digest", ""))
        return None

    def _look_for(self, url: Url, size: int) -> None:
        """Raise JobError if no file of `size` bytes is there. Who does not let us look is
        believed."""
        try:
            answer = self._ask("HEAD", url, None, Code.STAGE_OUT_FAILED)
        except JobError as error:
            if error.code is not Code.NO_SUCH_FILE:
                return
            there = "nothing is there"
        else:
            _finish(answer)
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
        answer = self._ask("HEAD", url, None, Code.STAGE_OUT_FAILED)
        _finish(answer)
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
            _finish(self._ask("DELETE", url.web, None, Code.STAGE_OUT_FAILED))
        except JobError as error:
            if error.code is not Code.NO_SUCH_FILE:
                raise

    def _ask(
        self,
        method: str,
        url: Url,
        body: Measured | bytes | None,
        code: Code,
        more: Mapping[str, str] | None = None,
        sum_s: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer with status 2xx, after at most `REDIRECTS` allowed redirects; each of them
        gets the body from its start, and the headers `more`. `sum_s`: the file's adler32 is
        wanted, which may take so long. Raises JobError."""
        first, expects = url, isinstance(body, Measured) and body.length >= LARGE
        unwanted = _WITHOUT_CONTENT if method == "GET" else set()
        unwanted = unwanted if more else unwanted | {206}
        for _ in range(REDIRECTS + 1):
            self.allowed(url)
            if expects:
                more = {**(more or {}), "Expect": "100-continue"}
            answer = self._answer(method, url, body, code, more, sum_s)
            if 200 <= answer.status < 300 and answer.status not in unwanted:
                return answer
            target = answer.headers.get("Location", "")
            _finish(answer)
            # A server that does not know `Expect`.
            if answer.status == 417 and expects:
                expects, more = False, None
            elif answer.status in _LEADS[method] and target:
                url = redirected(url, target)
            elif method == "PUT" and answer.status in {404, 409}:
                raise NoParent.of(refused(url, answer.status, code))
            else:
                raise refused(url, answer.status, code)
        raise JobError(code, f"{first}: more than {REDIRECTS} redirects")

    def _answer(
        self,
        method: str,
        url: Url,
        body: Measured | bytes | None,
        code: Code,
        more: Mapping[str, str] | None = None,
        sum_s: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """What one server answers, on whatever connection to it still holds. Raises JobError."""
        headers = {**HEADERS, **(more or {})}
        connections = self._connections(url)
        servers = connections.moving
        if sum_s is not None:
            headers["Want-Digest"], servers = "adler32", connections.summing
        if isinstance(body, Measured):
            headers |= {"Content-Length": str(body.length), "If-None-Match": "*"}
        if token := self._identity.token(url):
            headers["Authorization"] = f"Bearer {token}"
        while True:
            if isinstance(body, Measured):
                body.rewind()
            try:
                return servers.request(method, url, body, headers, sum_s)
            except AilurusError as error:
                if isinstance(error, JobError):
                    raise
                raise JobError(code, f"{url}: {error.message}", remedy=error.remedy) from None
            except urllib3.exceptions.HTTPError as error:
                if not isinstance(error.args[-1], Forgotten):
                    shown = connections is not self._anonymous
                    raise broken(url, error, code, shown=shown) from None
                if isinstance(body, Measured) and body.size == body.length:
                    self._unanswered.add(url.sent)

    def _connections(self, url: Url) -> Connections:
        """To servers that know who asks, where there is a proxy for `url`. Raises JobError."""
        if not (proxy := self._identity.proxy(url)):
            return self._anonymous
        known = self._known
        if known is None or known[0] != proxy:
            self._known = known = proxy, self._connect(proxy)
        return known[1]


def _finish(answer: urllib3.BaseHTTPResponse) -> None:
    """Be done with an answer whose body is nothing to us: a short one is read, so that its
    connection serves the next request."""
    length = getattr(answer, "length_remaining", None)
    with suppress(urllib3.exceptions.HTTPError):
        if length is not None and length <= MOST_WORDS:
            answer.read(decode_content=False)
    answer.close()


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
