"""Who is responsible for a failure. Tables decide it: by the errno and the operation's target, or
by how a process ended. What a payload wrote decides nothing; the last line of its stderr is only
shown.

    the node's       it lacks something: tried again, elsewhere
    the job's        it asks for what cannot be done: final
    the runtime's    the container could not be made: tried again
    ours             a bug: tried again, and reported as a bug
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError, Code
from pilot.ports import JobError


class Responsible(StrEnum):
    """Who has to repair it."""

    NODE = "node"
    JOB = "job"
    RUNTIME = "runtime"
    OURS = "ours"


class Target(StrEnum):
    """What an operation worked on. `No such file` is the job's fault for its program, the node's
    for its scratch directory."""

    NODE = "this node"
    """The pilot's directories, descriptors, threads and processes."""
    JOB = "the job"
    """What the job names: its program, script, arguments, environment, files of its own."""
    RUNTIME = "the container runtime"
    """The program that makes the sandbox."""
    STORAGE = "the storage"
    """Where inputs come from and outputs go."""


_NODE_FAULTS = {
    errno.ENOSPC: ("has no space or no inode left", "free space and inodes there (df, df -i)"),
    errno.EDQUOT: ("has no quota left for this user", "raise the quota or remove files"),
    errno.EAGAIN: (
        "lets this user start no more processes or threads",
        "raise its limit of processes (ulimit -u, pids.max of the cgroup)",
    ),
    errno.ENOMEM: ("has no memory left", "offer less memory in this slot"),
    errno.EMFILE: ("has no file descriptor left for the pilot", "raise its limit (ulimit -n)"),
    errno.ENFILE: ("has no file descriptor left", "raise fs.file-max there"),
    errno.ENOBUFS: ("has no buffer left", "offer less memory in this slot"),
    errno.ENOLCK: ("has no lock left", "look at the server of its file system"),
    errno.EIO: ("has a disk that fails", "look at its kernel's log"),
    errno.EUCLEAN: ("has a damaged file system", "look at its kernel's log"),
    errno.EROFS: ("has a file system that is read-only", "mount it for writing, or use another"),
    errno.ESTALE: ("lost a file of a network file system", "look at the server of that"),
    errno.ENOTCONN: ("lost a mounted file system", "mount it again"),
    errno.EREMOTEIO: ("lost a file of a network file system", "look at the server of that"),
    errno.ESHUTDOWN: ("lost a mounted file system", "mount it again"),
    errno.EHOSTDOWN: ("lost the server of a file system", "look at that server"),
    errno.EHOSTUNREACH: ("lost the server of a file system", "look at that server"),
    errno.ENETDOWN: ("has no network", "look at its network"),
    errno.ENETUNREACH: ("has no network", "look at its network"),
    errno.ETIMEDOUT: ("waited in vain for a file system", "look at the server of that"),
    errno.EBUSY: ("has that in use", "it may pass"),
    errno.ETXTBSY: ("has that in use", "it may pass"),
    errno.EINTR: ("was interrupted", "it may pass"),
    errno.ENODEV: ("lost a device", "look at its kernel's log"),
    errno.ENXIO: ("lost a device", "look at its kernel's log"),
    errno.EOVERFLOW: ("has a limit on namespaces that is reached", "raise user.max_*_namespaces"),
    errno.EUSERS: ("has a limit on users that is reached", "raise user.max_user_namespaces"),
}
"""Errnos that are the fault of the node, or of the storage, whatever the target: what is missing,
and what helps."""

_JOB_FAULTS = {
    errno.E2BIG: "the command, or a variable of the environment, is too long: put it into an input file",
    errno.ENOENT: "is the program, or the interpreter in the script's #! line, on this site?",
    errno.EACCES: "is the program executable, and is every directory on the way?",
    errno.EPERM: "is the program executable, and is every directory on the way?",
    errno.ENOEXEC: "is it a program for this kind of machine, or a script with a #! line?",
    errno.ELIBBAD: "is it a program for this kind of machine?",
    errno.EINVAL: "is it a program for this kind of machine?",
    errno.EISDIR: "a directory is no program and no file",
    errno.ENOTDIR: "a part of the path is no directory",
    errno.ELOOP: "the path leads through a symbolic link, or in a circle",
    errno.ENAMETOOLONG: "the name is too long: 255 bytes are the most",
    errno.EILSEQ: "the name has bytes that this file system does not take",
    errno.EEXIST: "it exists already",
    errno.EFBIG: "the file is larger than the file system or a limit takes",
}
"""Errnos that are the job's fault where the target is the job's, and what helps. On a target of the
node they are the node's fault."""


def responsible(number: int, target: Target) -> Responsible:
    """Who has to repair the errno `number` of an operation on `target`. An errno in no table counts
    as the node's: that mistake costs another attempt, the opposite one loses a job."""
    if number in _NODE_FAULTS:
        return Responsible.NODE
    # Its arguments are the job's words.
    if number == errno.E2BIG and target is Target.RUNTIME:
        return Responsible.JOB
    if target is Target.RUNTIME:
        return Responsible.RUNTIME
    if target in (Target.JOB, Target.STORAGE) and number in _JOB_FAULTS:
        return Responsible.JOB
    return Responsible.NODE


def job_error(
    error: OSError | int,
    what: str,
    target: Target,
    *,
    code: Code | None = None,
    field: str = "",
) -> JobError:
    """Make the JobError for an OSError (or an errno) of an operation on `target`.

    `what` names the operation, as «cannot write its script». `code` replaces the table's code where
    the operation has a more exact one, as a transfer has.
    """
    number = error if isinstance(error, int) else error.errno or 0
    text = os.strerror(number) if number else str(error)
    side = responsible(number, target)
    if side is Responsible.JOB:
        return JobError(
            code or Code.PAYLOAD_FAILED,
            f"{what}: {text}",
            remedy=_JOB_FAULTS[number],
            field=field,
            transient=False,
        )
    if side is Responsible.RUNTIME:
        return JobError(
            Code.CONTAINER_FAILED,
            f"{what}: {text}",
            remedy="does the container runtime still work on this node?",
            field=field,
            transient=True,
        )
    owner = Target.STORAGE if target is Target.STORAGE else Target.NODE
    lack, remedy = _NODE_FAULTS.get(number, ("failed", "look at that file system"))
    full = number in (errno.ENOSPC, errno.EDQUOT) and owner is Target.NODE
    return JobError(
        code or (Code.NO_LOCAL_SPACE if full else Code.RESOURCE_UNAVAILABLE),
        f"{owner} {lack} ({text}): {what}",
        remedy=f"{remedy}; the job is tried again elsewhere",
        field=field,
        transient=True,
    )


def unexpected(bug: Exception, doing: str) -> JobError:
    """The error of what nobody nearer to it has judged: an errno by the table, as of an operation
    on this node, all else as a bug of ours. `doing`: as «the pilot could not go on»."""
    if isinstance(bug, OSError):
        where = f" {bug.filename!r}" if bug.filename else ""
        return job_error(bug, f"{doing}{where}", Target.NODE)
    if isinstance(bug, MemoryError):
        return job_error(errno.ENOMEM, doing, Target.NODE)
    return JobError(Code.INTERNAL, f"the pilot itself failed: {type(bug).__name__}: {bug}")


class OSErrorsOn:
    """Turns an OSError raised within into a JobError that names the target, so that a copy can tell
    which of its two sides failed. Leaving it raises JobError."""

    def __init__(self, target: Target, what: str, code: Code | None = None) -> None:
        self._target, self._what, self._code = target, what, code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise job_error(error, self._what, self._target, code=self._code) from None


class Evidence(Struct, frozen=True):
    """The evidence of how a payload ended."""

    exit_code: int = 0
    """As a shell says it: 128 + n after signal n."""
    errno: int = 0
    """Not 0: it could not be started."""
    before: bool = False
    """The errno is of what is prepared before the program: its directory, its output files, its
    CPUs."""
    runtime: bool = False
    """A container runtime was started, not the payload itself."""
    ran: bool = True
    """Whether the payload ran, as the runtime's status channel tells."""
    oom_kills: int = 0
    """How many processes the kernel killed for memory meanwhile."""
    where: str = "on this node"
    """Where those were counted."""
    noexec: bool = False
    """The job's directory is on a file system from which nothing can be executed."""
    used_kb: int = 0
    requested_kb: int = 0
    last_words: str = ""
    """The last line of its stderr: shown, not judged."""


KILLED, NOT_EXECUTABLE = 128 + 9, 126
GUARDIAN_DIED = errno.EOWNERDEAD
WELL_BELOW = 0.75
"""Of the memory asked for: a payload that was killed with less is not what used the memory up."""


class _Row(Struct, frozen=True):
    fits: Callable[[Evidence], bool]
    error: Callable[[Evidence], JobError]


def _started(seen: Evidence) -> JobError:
    if seen.before:
        return job_error(seen.errno, "cannot prepare the start of the payload", Target.NODE)
    target = Target.RUNTIME if seen.runtime else Target.JOB
    return job_error(seen.errno, "the payload could not be started", target)


def _payload(
    seen: Evidence, text: str = "", remedy: str = "its stderr and log.tgz say more"
) -> JobError:
    code = seen.exit_code
    how = f"signal {code - 128}" if 128 < code < 193 else f"exit code {code}"
    last_words = f"; its last words: {seen.last_words}" if seen.last_words else ""
    return JobError(
        Code.PAYLOAD_FAILED, f"the payload ended with {how}{text}{last_words}", remedy=remedy
    )


def _killed_for_memory(seen: Evidence) -> JobError:
    below = 0 < seen.used_kb < WELL_BELOW * seen.requested_kb
    return JobError(
        Code.OUT_OF_MEMORY,
        f"the payload was killed while the kernel killed {processes(seen.oom_kills)} for memory "
        f"{seen.where}; it had used {seen.used_kb >> 10} of {seen.requested_kb >> 10} MB",
        remedy="offer less memory in this slot" if below else "ask for more `memory`",
        transient=below,
    )


def processes(number: int) -> str:
    """So many of them, in words."""
    return f"{number} process{'' if number == 1 else 'es'}"


_ENDINGS = (
    _Row(
        lambda seen: seen.errno == GUARDIAN_DIED,
        lambda seen: JobError(
            Code.INTERNAL, "the pilot's guardian died, and all payloads with it", transient=True
        ),
    ),
    _Row(lambda seen: seen.errno != 0, _started),
    _Row(
        lambda seen: seen.exit_code == KILLED and seen.oom_kills > 0,
        _killed_for_memory,
    ),
    _Row(
        lambda seen: not seen.ran and seen.exit_code > 128,
        lambda seen: JobError(
            Code.CONTAINER_FAILED,
            f"the container runtime was killed by signal {seen.exit_code - 128}",
            remedy="who sends signals to the pilot's processes on this node?",
            transient=True,
        ),
    ),
    _Row(
        lambda seen: not seen.ran,
        lambda seen: JobError(
            Code.CONTAINER_FAILED,
            f"the container runtime ended with exit code {seen.exit_code} before the payload began"
            + (f": {seen.last_words}" if seen.last_words else ""),
            remedy="does the container runtime still work on this node?",
            transient=True,
        ),
    ),
    _Row(
        lambda seen: seen.exit_code != 0 and seen.oom_kills > 0,
        lambda seen: _payload(
            seen,
            f"; meanwhile the kernel killed {processes(seen.oom_kills)} for memory {seen.where}",
            "if that was one of its own it needs more `memory`; its stderr and log.tgz say more",
        ),
    ),
    _Row(
        lambda seen: seen.exit_code == NOT_EXECUTABLE and seen.noexec,
        lambda seen: JobError(
            Code.RESOURCE_UNAVAILABLE,
            "this node's work directory is mounted noexec, and the payload ended with exit code 126, "
            "«cannot execute»"
            + (f"; its last words: {seen.last_words}" if seen.last_words else ""),
            remedy="give the pilot a --workdir on a file system with exec",
            transient=True,
        ),
    ),
    _Row(lambda seen: seen.exit_code != 0, _payload),
)
"""The first row that fits decides."""


def ending(seen: Evidence) -> JobError | None:
    """Why a payload failed, or None if it did not."""
    return next((row.error(seen) for row in _ENDINGS if row.fits(seen)), None)


@contextmanager
def making(name: str) -> Iterator[None]:
    """Turns what a plugin `name` that moves files raises while it is made into a JobError: for what
    the site's administrator must repair."""
    try:
        yield
    except JobError:
        raise
    except msgspec.ValidationError as error:
        raise JobError(
            Code.SERVICE_UNAVAILABLE,
            f"the options of {name} in the site file: {error}",
            remedy="`harvester-edge lint` names line and remedy",
        ) from None
    except AilurusError as error:
        raise JobError(Code.NO_PROTOCOL, error.message, remedy=error.remedy) from None
    except (ImportError, OSError) as error:
        raise JobError(
            Code.SERVICE_UNAVAILABLE,
            f"the transfer library of {name} cannot be loaded on this node: {error}",
            remedy="install it beside the pilot, or name another plugin in storage.plugins",
        ) from None
