"""Requests to storage, under the rules of the site: which servers, as whom, and where a redirect
may lead."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import urllib3

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from ailurus.wire.opening import TooLong, at_most
from ailurus.wire.watched import Forgotten
from pilot.ports import JobError
from plugins.data.http_bodies import Measured
from plugins.data.http_errors import AT_SERVER, NoParent, broken, plain, redirected, refused
from plugins.data.http_identity import Identity
from plugins.data.http_servers import HEADERS, Connections

# Bytes of a body that is announced first: the receiver may be another.
LARGE = 1 << 20
REDIRECTS = 5
# Bytes of an answer that are read for its connection's sake.
MOST_WORDS = 1 << 16
# How long these may take.
WORDS_S = 1.0
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


class Requests:
    """To servers that the site allows. Any thread may call it."""

    def __init__(
        self, allow: Sequence[str], identity: Identity, *, proxy: str = "", ca: str = ""
    ) -> None:
        """`allow`: prefixes of URLs; `proxy`: of the network, as `http_proxy` of the site."""
        self.prefixes = [plain(Url.parse(prefix).web) for prefix in allow]
        self.identity = identity
        # URLs to which all of a body was sent, on a connection that had ended.
        self.sent_whole: set[str] = set()
        self._connect = partial(Connections.made, proxy, ca)
        self.anonymous = self._connect()
        # Those by the newest X.509 proxy.
        self._known: tuple[str, Connections] | None = None

    def as_user(self, identity: Identity) -> Requests:
        """The same servers, asked by somebody else."""
        made = copy.copy(self)
        vars(made).update(identity=identity, _known=None)
        return made

    def allowed(self, url: Url) -> None:
        if any(plain(url.web).within(prefix) for prefix in self.prefixes):
            return
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} is not in this site's storage.http_allow",
            remedy="use the site's storage, or ask its admin to allow that prefix",
        )

    def ask(
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
            answer = self.once(method, url, body, code, more, sum_s)
            if 200 <= answer.status < 300 and answer.status not in unwanted:
                return answer
            target = answer.headers.get("Location", "")
            finish(answer)
            # A server that does not know `Expect`.
            if answer.status == 417 and expects:
                expects, more = False, None
            elif answer.status in _LEADS[method] and target:
                url = redirected(url, target)
            elif method == "PUT" and answer.status in {404, 409}:
                raise NoParent.of(refused(url, answer.status, code))
            else:
                raise refused(url, answer.status, code)
        raise JobError(code, f"{first}: more than {REDIRECTS} redirects", remedy=AT_SERVER)

    def once(
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
        if token := self.identity.token(url):
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
                    shown = connections is not self.anonymous
                    raise broken(url, error, code, shown=shown) from None
                if isinstance(body, Measured) and body.size == body.length:
                    self.sent_whole.add(url.sent)

    def _connections(self, url: Url) -> Connections:
        """To servers that know who asks, where there is a proxy for `url`. Raises JobError."""
        if not (proxy := self.identity.proxy(url)):
            return self.anonymous
        known = self._known
        if known is None or known[0] != proxy:
            self._known = known = proxy, self._connect(proxy)
        return known[1]


def finish(answer: urllib3.BaseHTTPResponse) -> None:
    """Be done with an answer whose body is nothing to us: a short one is read, so that its
    connection serves the next request. Raises what the check raises."""
    length = getattr(answer, "length_remaining", None)
    try:
        if length is not None and length <= MOST_WORDS:
            with suppress(urllib3.exceptions.HTTPError, TooLong), at_most(WORDS_S):
                answer.read(decode_content=False)
    finally:
        answer.close()
