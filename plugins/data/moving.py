"""What movers share: how a failure of a library becomes PanDA's code with a remedy, how a local
file is measured, where credentials are and where libraries lie."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Annotated, NamedTuple, TypeVar

from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.shown import shown
from ailurus.protocol.units import duration_s
from ailurus.protocol.url import Url
from ailurus.token_discovery import FoundToken, of_site
from pilot.blame import Target, job_error
from pilot.ports import (
    ABSENT,
    MOST_FOUND,
    TAKEN,
    Copied,
    JobError,
    LeftBehind,
    Moved,
    NotMoved,
    Progress,
    Tell,
    ToGet,
    ToPut,
    too_many,
)
from plugins.data.checksums import Checksums

T = TypeVar("T")
_File = TypeVar("_File", ToGet, ToPut)
BLOCK = 1 << 20
_DETAIL = 300
# Where Debian and Red Hat put modules that belong to a system library.
_SYSTEM = ("/usr/lib/python3/dist-packages", "/usr/lib64/python{}.{}/site-packages")


class Way(Enum):
    """Which way files go: it decides the code."""

    IN = "in"
    OUT = "out"


class _Codes(NamedTuple):
    failed: Code
    late: Code
    adler32: Code


_BY_WAY = {
    Way.IN: _Codes(Code.STAGE_IN_FAILED, Code.STAGE_IN_TIMEOUT, Code.GET_ADLER_MISMATCH),
    Way.OUT: _Codes(Code.STAGE_OUT_FAILED, Code.STAGE_OUT_TIMEOUT, Code.PUT_ADLER_MISMATCH),
}


class Failure(Enum):
    """Why one file was not moved, in the words of no library: the text, the remedy, whether it may
    pass."""

    MISSING = "does not exist", ABSENT, False
    EXISTS = "exists already, and outputs overwrite nothing", TAKEN, False
    DENIED = (
        "permission denied to the site's credential",
        "does what `storage` names as `token_file`, `proxy` or `keys_file` cover that path?",
        False,
    )
    UNKNOWN_USER = (
        "the storage does not accept the site's credential",
        "renew what the site's `storage` names as `token_file`, `proxy` or `keys_file`",
        True,
    )
    FULL = (
        "the storage has no space or quota left",
        "free space there, or name another in `storage.alternative_output`",
        True,
    )
    NOT_A_FILE = "is not a file", "name a file, or ask for the directory as inputs", False
    BAD_NAME = "the storage does not take that name", "choose another name", False
    STALLED = (
        "the storage said nothing for too long",
        "look at that server; `storage` says how long it may be silent (`stall`)",
        True,
    )
    UNREACHABLE = "the storage cannot be reached", "look at that server and the way to it", True
    UNTRUSTED = (
        "the storage's certificate is not trusted, or ours is not",
        "name the authorities in the site's `storage` (`ca`, `ca_dir`)",
        False,
    )
    BUSY = "the storage is too busy, or the file is in use there", "it may pass", True
    WRONG = (
        "what arrived is not what was sent (adler32)",
        "look at the disks of both sides; of a replica, declare it bad at the catalogue",
        True,
    )
    UNSUPPORTED = "the storage does not do what is asked", "name another protocol for it", False
    FAILED = "the transfer failed", "look at that server's log", True


def failure(way: Way, kind: Failure, url: object, detail: str = "") -> JobError:
    """The error of one file. `url` is shown as it prints; `detail` is the library's own sentence,
    which decides nothing."""
    text, remedy, transient = kind.value
    codes = _BY_WAY[way]
    code = {
        Failure.MISSING: Code.NO_SUCH_FILE,
        Failure.STALLED: codes.late,
        Failure.WRONG: codes.adler32,
        Failure.UNREACHABLE: Code.SERVICE_UNAVAILABLE,
    }.get(kind, codes.failed)
    said = shown(" ".join(detail.split()))[:_DETAIL]
    message = f"{url} {text}" if text.startswith(("does", "exists", "is ")) else f"{url}: {text}"
    return JobError(
        code, f"{message} ({said})" if said else message, remedy=remedy, transient=transient
    )


def few(found: Iterable[T], url: object) -> list[T]:
    """The files that were found, if a job can have so many. Raises JobError, and asks for no more
    of them."""
    some = list(islice(found, MOST_FOUND + 1))
    if len(some) > MOST_FOUND:
        raise too_many(url)
    return some


def not_moved(key: int, error: JobError) -> NotMoved:
    return NotMoved(
        key=key,
        code=error.code,
        message=error.message,
        remedy=error.remedy,
        transient=error.transient,
        left=isinstance(error, LeftBehind),
    )


def local_failure(number: int, what: str) -> JobError:
    """The error of an errno on this node's side of a transfer."""
    return job_error(number, what, Target.NODE)


def measured(path: str, *, md5: bool = False) -> Copied:
    """Size, adler32 and, if asked for, md5 of a file. Raises OSError."""
    seen = Checksums(md5=md5)
    block = memoryview(bytearray(BLOCK))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while got := os.readv(fd, [block]):
            seen.add(block[:got])
    finally:
        os.close(fd)
    return seen.copied


def padded(adler32: str) -> str:
    """An adler32 as we write it: eight digits in lower case."""
    return adler32.strip().lower().zfill(8)


def drop(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


Parallel = Annotated[int, Meta(ge=1, le=64)]
"""Files at a time."""
Stall = str | Annotated[float, Meta(gt=0)] | Annotated[int, Meta(gt=0)]
"""How long a server may say nothing; a number is seconds."""


def patience_s(stall: Stall) -> int:
    """So many seconds, at least one. Raises AilurusError for a text that is no duration."""
    return max(1, round(duration_s(stall)))


class GridOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of movers that use the grid's libraries. Credentials are named by file."""

    token_file: str = ""
    """A bearer token of the WLCG profile; read again for each batch. `wlcg-discovery`: it is looked
    for where the WLCG says."""
    proxy: str = ""
    """An X.509 proxy; read again for each connection."""
    ca_dir: str = ""
    """A directory of hashed certificates of authorities, as /etc/grid-security/certificates."""
    ca: str = ""
    """A file of certificates of authorities: the fewer, the faster are davs transfers."""
    parallel: Parallel = 4
    stall: Stall = 60

    @property
    def stall_s(self) -> int:
        return patience_s(self.stall)


# What the grid's libraries take from an environment; only the site file sets it for a mover.
_VARIABLES = {
    "token_file": "BEARER_TOKEN_FILE",
    "proxy": "X509_USER_PROXY",
    "ca_dir": "X509_CERT_DIR",
    "ca": "SSL_CERT_FILE",
}
_FOREIGN = (
    "XRD_",
    "XrdSec",
    "GFAL_",
    "DAVIX_",
    "BEARER_TOKEN",
    "X509_",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)


def token_of(options: GridOptions) -> FoundToken:
    """The site's token as it is now. Raises JobError."""
    try:
        return of_site(options.token_file)
    except AilurusError as error:
        code = Code.SERVICE_UNAVAILABLE
        raise JobError(code, error.message, remedy=error.remedy, transient=True) from None


def credentials(options: GridOptions) -> Mapping[str, str]:
    """The variables that name the site's credentials. Raises JobError if a file cannot be read:
    every file would fail by it."""
    found = {}
    token = token_of(options)
    if token.text:
        found["BEARER_TOKEN"] = token.text
    for field, variable in _VARIABLES.items():
        path = token.path if field == "token_file" else getattr(options, field)
        if not path:
            continue
        if not os.access(path, os.R_OK):
            raise JobError(
                Code.SERVICE_UNAVAILABLE,
                f"the site's {field} {path} cannot be read on this node",
                remedy="is it there, and the pilot's user's?",
                transient=True,
            )
        found[variable] = path
    return found


def set_environment(options: GridOptions) -> None:
    """Set this process's environment for the grid's libraries: what the site says and nothing
    else. Raises JobError as `credentials` does."""
    wanted = credentials(options)
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    os.environ.update(wanted)


def system_module(name: str) -> ModuleType:
    """Import a module that a system's package may have brought for this Python. Raises
    ImportError."""
    try:
        return import_module(name)
    except ImportError:
        for place in _SYSTEM:
            directory = place.format(*sys.version_info[:2])
            if directory not in sys.path and Path(directory).is_dir():
                sys.path.append(directory)
        return import_module(name)


def each_in_threads(
    way: Way,
    files: Sequence[_File],
    tell: Tell,
    move: Callable[[_File, Url, Callable[[int], None]], Moved],
    parallel: int,
) -> None:
    """Move each file by `move`, some at a time, and tell how each ended."""
    lock = threading.Lock()

    def say(news: Moved | NotMoved | Progress) -> None:
        with lock:
            tell(news)

    def one(file: _File) -> None:
        def progress(done: int) -> None:
            say(Progress(key=file.key, moved_bytes=done))

        try:
            progress(0)
            say(move(file, Url.parse(file.url), progress))
        except JobError as error:
            say(not_moved(file.key, error))
        except AilurusError as error:
            say(not_moved(file.key, failure(way, Failure.BAD_NAME, error.message)))

    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(one, files))
