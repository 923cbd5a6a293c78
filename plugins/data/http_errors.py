"""What a server of http refuses, or leaves unsaid, and URLs that none is asked for."""

from __future__ import annotations

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from pilot.ports import ABSENT, TAKEN, JobError

AT_SERVER = "look at that server, its log and its free space, and at the way to it"
_REMEDIES = {
    401: "renew what the site's `storage.http` names as `token_file` or `proxy`",
    403: "does what the site's `storage.http` names as `token_file` or `proxy` cover that path?",
    507: "free space there, or name another in `storage.alternative_output`",
}
"""What helps, by the status of an answer."""

_LONGEST = 500
"""Characters of what a library says of a connection."""


class NoParent(JobError):
    """A directory on the way to a file may be missing."""

    @classmethod
    def of(cls, error: JobError) -> NoParent:
        return cls(error.code, error.message, remedy=error.remedy, transient=error.transient)


class BrokeOff(JobError):
    """A connection ended, or was silent, before its answer."""


class Unsupported(JobError):
    """The server does not know what it was asked to do."""


class Exists(JobError):
    """There is a file of that name."""


def refused(url: Url, status: int, code: Code) -> JobError:
    """The error of a file, by the status of an answer; `code` where no other says it."""
    if status in {404, 410}:
        return JobError(Code.NO_SUCH_FILE, f"{url} does not exist (HTTP {status})", remedy=ABSENT)
    if status == 412:
        return Exists(
            code,
            f"{url} exists already, and outputs overwrite nothing",
            remedy=TAKEN,
            transient=False,
        )
    if status in {405, 501}:
        remedy = "name another protocol for it: `storage.plugins` of the site file"
        return Unsupported(code, f"{url}: HTTP {status}", remedy=remedy, transient=False)
    # 423: a server has not done with a try that broke off.
    passing = status in {202, 408, 416, 423, 425, 429} or status >= 500
    remedy = _REMEDIES.get(status, AT_SERVER)
    return JobError(code, f"{url}: HTTP {status}", remedy=remedy, transient=passing)


def broken(url: Url, error: Exception, code: Code, *, shown: bool) -> JobError:
    """The error of a connection that failed; `shown`: it is one by which we show a proxy. A server
    that does not take that need not say so: most just close."""
    why = str(error)
    if len(why) > _LONGEST:
        # A server may put whatever it likes into what cannot be read.
        why = f"{why[:_LONGEST]}…"
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return JobError(
            code,
            f"{url}: {why}",
            remedy="its authority can be named with the pilot's --ca or SSL_CERT_FILE",
        )
    remedy = "does its server take the proxy that is shown to it? It may have expired"
    return BrokeOff(code, f"{url}: {why}", remedy=remedy if shown else AT_SERVER)


def redirected(url: Url, target: str) -> Url:
    """Where an answer leads on. Raises JobError."""
    try:
        leads = url.redirected(target)
    except AilurusError as error:
        what = f"{url} redirects badly: {error.message}"
        raise JobError(Code.STORAGE_FORBIDDEN, what, remedy=AT_SERVER) from None
    if url.scheme == "https" and leads.scheme != "https":
        what = f"{url} redirects away from https, to {leads}"
        remedy = "look at that server; where http is meant, name that URL"
        raise JobError(Code.STORAGE_FORBIDDEN, what, remedy=remedy)
    return leads


def plain(url: Url) -> Url:
    """A URL that has nothing ambiguous in it. Raises JobError for another."""
    odd = url.userinfo is not None or not url.host or url.climbs
    if url.scheme not in {"http", "https"} or odd:
        raise JobError(
            Code.STORAGE_FORBIDDEN,
            f"{url} is not a plain http URL",
            remedy="write https://host/path, without user, `..` or backslash",
        )
    return url
