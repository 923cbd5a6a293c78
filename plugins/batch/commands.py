"""Running a batch system's commands: an argument list, a time-out, a bound on what it may say.

A command that ended, with whatever exit code, is a `Ran`; one that did not end in time, or said more than
any listing can, is a BatchError. Who hands in another `Run` needs no batch system: recorded output does.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from harvester_edge.ports import BatchError, Order

MOST_BYTES = 64 << 20
"""10,000 workers are about 1 MB in any format."""
PASSED = ("HOME", "LOGNAME", "PATH", "SHELL", "TZ", "USER")
"""What a command has of the edge's environment, beside what its own system is configured by: no token, no
setting of the edge's, and nothing that would change a submission behind the site file's back."""
TAIL_BYTES = 2000


class Ran(Struct, frozen=True):
    """A command that ended by itself; `code` as of subprocess."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def said(self) -> str:
        """Its own words, for people."""
        return (self.err.strip() or self.out.strip() or f"exit code {self.code}")[:500]


class NotThere(BatchError):
    """The command could not even be started: certainly nothing was done."""


Run = Callable[[Sequence[str]], Ran]


def runner(timeout_s: float, configured_by: Mapping[str, str] | Sequence[str] = ()) -> Run:
    """A `Run` with that time-out, and with those variables of the edge's environment."""

    def run(argv: Sequence[str]) -> Ran:
        names = (*PASSED, *configured_by)
        env = {name: os.environ[name] for name in names if name in os.environ}
        return execute(argv, timeout_s=timeout_s, env={**env, "LC_ALL": "C.UTF-8"})

    return run


def execute(argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str]) -> Ran:
    """Run a command to its end. What it left running is not waited for."""
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        child = subprocess.Popen(
            argv, stdin=null, stdout=pipe, stderr=pipe, env=env, start_new_session=True
        )
    except OSError as error:
        raise NotThere(f"cannot run {argv[0]}: {error.strerror}") from None
    ended = os.pidfd_open(child.pid)
    streams = [one.fileno() for one in (child.stdout, child.stderr) if one]
    said = {one: bytearray() for one in streams}
    try:
        with child, selectors.DefaultSelector() as selector:
            for one in (*streams, ended):
                selector.register(one, selectors.EVENT_READ)
            try:
                _listen(selector, said, ended, argv[0], timeout_s)
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                raise
    finally:
        os.close(ended)
    out, err = (bytes(one).decode("utf-8", "replace") for one in said.values())
    return Ran(child.returncode, out, err)


def _listen(
    selector: selectors.BaseSelector,
    said: dict[int, bytearray],
    ended: int,
    name: str,
    timeout_s: float,
) -> None:
    """Until the process has ended and its pipes are empty for now."""
    until = time.monotonic() + timeout_s
    over = False
    while True:
        ready = [key.fd for key, _ in selector.select(0 if over else until - time.monotonic())]
        over = over or ended in ready
        heard = False
        for fd in ready:
            if fd == ended:
                selector.unregister(ended)
            elif more := os.read(fd, 1 << 16):
                said[fd] += more
                heard = True
            else:
                selector.unregister(fd)
        if sum(map(len, said.values())) > MOST_BYTES:
            raise BatchError(f"{name} printed more than {MOST_BYTES >> 20} MiB")
        if over and not heard:
            return
        if not over and time.monotonic() >= until:
            raise BatchError(f"{name} did not answer within {timeout_s:g} s")


def answer(command: str, ran: Ran) -> str:
    """What a command printed. Exit code 0 with nothing but an error is no answer, nor is half of one."""
    if ran.code or (not ran.out and "error" in ran.err.lower()):
        raise BatchError(f"{command}: {ran.said}")
    if ran.out and not ran.out.endswith("\n"):
        raise BatchError(f"{command}: its answer is cut off")
    return ran.out


SSH_FAILED = 255
_SIGNALS = (1, 2, 3, 6, 9, 11, 13, 15)
STOPPED = frozenset({124, *(128 + number for number in _SIGNALS)})
"""As shells and timeout(1) tell that a command was ended."""


def refused(ran: Ran, lost: re.Pattern[str], name: str, *, far: bool) -> bool:
    """Whether a submit command was told no, in whatever words: it ended by itself, with an error, and tells
    no number of a job. Who says nothing at all has lost its words. `lost`: what it says when the answer, and not the job, was lost. `far`: it runs
    behind an ssh, which fails with a code that it may have, too."""
    if ran.code <= 0 or ran.code in STOPPED or re.search(r"\b\d+\b", ran.out):
        return False
    if not (ran.err + ran.out).strip():
        return False
    if far and ran.code == SSH_FAILED and not re.search(f"^{name}", ran.err, re.MULTILINE):
        return False
    return not lost.search(ran.err)


OptionsT = TypeVar("OptionsT", bound=Struct)


def of_slot(options: OptionsT, order: Order) -> OptionsT:
    """The options as the order's slot changes them."""
    return msgspec.convert({**msgspec.structs.asdict(options), **order.extra}, type(options))


def in_time(seconds: int) -> str:
    """A duration as H:MM:SS, which all of them read."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def end_of(path: Path) -> str:
    """The last words of a file of a worker's; none of what is no regular file. What runs there can put
    anything in its place: a link, or a FIFO, which whoever opens it waits for. Raises OSError."""
    file = os.open(path, _FILE)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return ""
        said = os.pread(file, TAIL_BYTES, max(0, found.st_size - TAIL_BYTES))
        return said.decode("utf-8", "replace").strip()
    finally:
        os.close(file)


def tail(place: Path) -> str:
    """The last words of a worker on stderr, where they can be read from here."""
    try:
        return end_of(place / "stderr")
    except OSError:
        return ""


def because(what: str, place: Path) -> str:
    return f"{what}: {words}" if (words := tail(place)) else what


def hundreds(ids: Sequence[str]) -> Iterator[list[str]]:
    """Ids in portions that a command line holds."""
    rest = iter(ids)
    while portion := list(islice(rest, 500)):
        yield portion


DIGITS = 7  # of an index: Slurm's arrays end at 4,000,001
_TASKS = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?")


def tasks(text: str) -> list[int]:
    """The indices of "3", "0-9%3" or "3-4,6-9:2"; none of anything else, or of more than there can be."""
    if text.isdecimal() and len(text) <= DIGITS:  # each line of a long listing
        return [int(text)]
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = _TASKS.fullmatch(part)
        if match:
            first, last, step = match.groups()
            found += range(int(first), int(last or first) + 1, int(step or 1) or 1)
    return found
