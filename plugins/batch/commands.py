"""Runs the commands of a batch system: an argument list, a time-out, a bound on the output.

A command that ended, with whatever exit code, is a `Ran`. One that did not end in time, or printed
more than any listing has, is a BatchError. A test passes its own `Run`, which plays recorded
output.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from ailurus.regular import NotRegular, open_regular
from harvester_edge.ports import BatchError, Order

MAX_OUTPUT_BYTES = 64 << 20
"""10,000 workers are about 1 MB in any format."""
PASSED = ("HOME", "LOGNAME", "PATH", "SHELL", "TZ", "USER")
"""The edge's variables that a command gets, beside those which configure its batch system: no
token, no setting of the edge's, and nothing that would change a submission behind the site file's
back."""
TAIL_BYTES = 2000


class Ran(Struct, frozen=True):
    """A command that ended by itself; `code` as of subprocess."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def message(self) -> str:
        """What it printed, for people: stderr, else stdout, else its exit code."""
        return (self.err.strip() or self.out.strip() or f"exit code {self.code}")[:500]


class CommandMissing(BatchError):
    """The command could not even be started: certainly nothing was done."""


Run = Callable[[Sequence[str]], Ran]


def runner(timeout_s: float, variables: Mapping[str, str] | Sequence[str] = ()) -> Run:
    """A `Run` with that time-out; commands also get these `variables` of the edge's environment."""

    def run(argv: Sequence[str]) -> Ran:
        names = (*PASSED, *variables)
        env = {name: os.environ[name] for name in names if name in os.environ}
        return execute(argv, timeout_s=timeout_s, env={**env, "LC_ALL": "C.UTF-8"})

    return run


def execute(argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str]) -> Ran:
    """Run a command to its end; do not wait for processes that it leaves behind.

    Raises CommandMissing if it cannot be started, BatchError if it does not end in time or prints
    too much.
    """
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        child = subprocess.Popen(
            argv, stdin=null, stdout=pipe, stderr=pipe, env=env, start_new_session=True
        )
    except OSError as error:
        raise CommandMissing(f"cannot run {argv[0]}: {error.strerror}") from None
    ended = os.pidfd_open(child.pid)
    streams = [one.fileno() for one in (child.stdout, child.stderr) if one]
    output = {one: bytearray() for one in streams}
    try:
        with child, selectors.DefaultSelector() as selector:
            for one in (*streams, ended):
                selector.register(one, selectors.EVENT_READ)
            try:
                _read_until_ended(selector, output, ended, argv[0], timeout_s)
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                raise
    finally:
        os.close(ended)
    out, err = (bytes(one).decode("utf-8", "replace") for one in output.values())
    return Ran(child.returncode, out, err)


def _read_until_ended(
    selector: selectors.BaseSelector,
    output: dict[int, bytearray],
    ended: int,
    name: str,
    timeout_s: float,
) -> None:
    """Read until the process has ended and its pipes are empty for now."""
    deadline = time.monotonic() + timeout_s
    over = False
    while True:
        ready = [key.fd for key, _ in selector.select(0 if over else deadline - time.monotonic())]
        over = over or ended in ready
        got_some = False
        for fd in ready:
            if fd == ended:
                selector.unregister(ended)
            elif more := os.read(fd, 1 << 16):
                output[fd] += more
                got_some = True
            else:
                selector.unregister(fd)
        if sum(map(len, output.values())) > MAX_OUTPUT_BYTES:
            raise BatchError(f"{name} printed more than {MAX_OUTPUT_BYTES >> 20} MiB")
        if over and not got_some:
            return
        if not over and time.monotonic() >= deadline:
            raise BatchError(f"{name} did not answer within {timeout_s:g} s")


def output_of(command: str, ran: Ran) -> str:
    """What a query printed. Raises BatchError if it failed, printed nothing but an error, or was
    cut off."""
    if ran.code or (not ran.out and "error" in ran.err.lower()):
        raise BatchError(f"{command}: {ran.message}")
    if ran.out and not ran.out.endswith("\n"):
        raise BatchError(f"{command}: its answer is cut off")
    return ran.out


SSH_FAILED = 255
_SIGNALS = (1, 2, 3, 6, 9, 11, 13, 15)
STOPPED = frozenset({124, *(128 + number for number in _SIGNALS)})
"""Exit codes by which shells and timeout(1) say that a command was ended."""


def is_refusal(ran: Ran, lost: re.Pattern[str], name: str, *, remote: bool) -> bool:
    """Whether a submit command was refused, whatever the message: it ended by itself, with an
    error, and printed no job number. A command that printed nothing at all may have lost its
    message.

    `lost` matches messages after which the job may exist although the answer was lost. `remote`:
    the command runs behind an ssh, whose own exit code for a failure the command may have, too.
    """
    if ran.code <= 0 or ran.code in STOPPED or re.search(r"\b\d+\b", ran.out):
        return False
    if not (ran.err + ran.out).strip():
        return False
    if remote and ran.code == SSH_FAILED and not re.search(f"^{name}", ran.err, re.MULTILINE):
        return False
    return not lost.search(ran.err)


OptionsT = TypeVar("OptionsT", bound=Struct)


def options_of_slot(options: OptionsT, order: Order) -> OptionsT:
    """The site's options with the changes of the order's slot. Raises msgspec.ValidationError."""
    return msgspec.convert({**msgspec.structs.asdict(options), **order.extra}, type(options))


def hms(seconds: int) -> str:
    """A duration as H:MM:SS, which all batch systems read."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def read_tail(path: Path) -> str:
    """The last TAIL_BYTES of a regular file; empty for anything else. Raises OSError.

    The worker can put anything in the file's place: a link, or a FIFO, on which a reader would
    hang.
    """
    try:
        file = open_regular(path)
    except NotRegular:
        return ""
    try:
        size = os.fstat(file).st_size
        end = os.pread(file, TAIL_BYTES, max(0, size - TAIL_BYTES))
        return end.decode("utf-8", "replace").strip()
    finally:
        os.close(file)


def with_last_words(reason: str, directory: Path) -> str:
    """`reason`, and the end of the worker's stderr if it can be read from here."""
    try:
        stderr = read_tail(directory / "stderr")
    except OSError:
        return reason
    return f"{reason}: {stderr}" if stderr else reason


def batches_of_500(ids: Sequence[str]) -> Iterator[list[str]]:
    """Ids in portions that fit on a command line."""
    rest = iter(ids)
    while portion := list(islice(rest, 500)):
        yield portion


# Slurm's arrays end at 4,000,001.
INDEX_DIGITS = 7
_TASKS = re.compile(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?")


def tasks(text: str) -> list[int]:
    """The indices of an array expression such as "3", "0-9%3" or "3-4,6-9:2"; none if it is no
    expression."""
    # The usual case: each line of a long listing names one task.
    if text.isdecimal() and len(text) <= INDEX_DIGITS:
        return [int(text)]
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = _TASKS.fullmatch(part)
        if match:
            first, last, step = match.groups()
            found += range(int(first), int(last or first) + 1, int(step or 1) or 1)
    return found
