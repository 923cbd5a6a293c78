"""What a server of http refuses, or leaves unsaid."""

from __future__ import annotations

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import TAKEN, JobError

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
        return JobError(Code.NO_SUCH_FILE, f"{url} does not exist (HTTP {status})")
    if status == 412:
        return Exists(
            code,
            f"{url} exists already, and outputs overwrite nothing",
            remedy=TAKEN,
            transient=False,
        )
    if status in {405, 501}:
        return Unsupported(code, f"{url}: HTTP {status}", transient=False)
    # 423: a server has not done with a try that broke off.
    passing = status in {202, 408, 416, 423, 425, 429} or status >= 500
    return JobError(code, f"{url}: HTTP {status}", transient=passing)


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
    return BrokeOff(code, f"{url}: {why}", remedy=remedy if shown else "")
