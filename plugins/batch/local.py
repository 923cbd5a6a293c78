"""Workers as processes of this machine: a batch system for one computer, tests and the demo.

A worker is a session of its own, so it outlives the edge. What is known about it lies in its
directory `workers/TAG/INDEX`, each file written whole or not at all:

    script      what it runs
    spawned     "PID STARTTIME BOOT" of the wrapper, written by the edge
    claim       the same, written by the wrapper, once: whoever makes it decides whether the worker
                begins (the wrapper) or never will (a search that gave it up: "void")
    running     "PID STARTTIME BOOT" of the worker itself, written by it before it becomes the pilot
    ended       "EXITCODE SECONDS" , written by the wrapper
    cancelled   since when it is being ended

A record that is none of these (a power failure leaves files of zero bytes) says nothing, as if it
were not there, and holds up nobody else's. A process is ours if pid, start time and boot agree:
never by name, and a pid used again is no match.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ailurus.failpoint import failpoint
from ailurus.naming import name_once
from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import (
    Accepted,
    Batch,
    BatchError,
    BatchId,
    Order,
    Rejected,
    Sighting,
    Tag,
    Unclear,
)
from plugins.batch.commands import read_tail, with_last_words

# Arguments: the worker's directory, its walltime, the grace between TERM and KILL, its index, RUN.
# `timeout` ends the worker as a batch system would, and TERM or KILL go straight to the pilot.
WRAPPER = """
cd "$1" || exit
me() { read -r stat < "/proc/$1/stat"; set -- "$1" ${stat##*) }; read -r boot < /proc/sys/kernel/random/boot_id
       echo "$1 ${21} $boot"; }
me $$ > claim.$$ && ln claim.$$ claim 2>/dev/null; claimed=$?; rm -f claim.$$
[ $claimed = 0 ] || exit
export AILURUS_INDEX="$4"
timeout --foreground -k "$3" "$2" sh -c "$5" > stdout 2> stderr < /dev/null
echo "$? $(date +%s)" > ended.new && mv ended.new ended
"""
RUN = """
read -r stat < /proc/$$/stat; set -- ${stat##*) }; read -r boot < /proc/sys/kernel/random/boot_id
echo "$$ ${20} $boot" > running.new && mv running.new running && exec sh ./script
"""
PASSED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")
"""What a worker has of the edge's environment: no token, no setting of the edge's own."""
VOID = "void"
# Of timeout(1).
WALLTIME_EXIT = 124


class LocalOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backend.options` of a site of kind `local`."""

    grace_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    """Between TERM and KILL, when a worker is cancelled or at its walltime."""


class Local(Batch):
    """The processes under one directory."""

    Options = LocalOptions
    poll_s = 2.0
    settle_s = 2.0
    grace_s = 4.0
    index = '"$AILURUS_INDEX"'

    def __init__(
        self,
        options: LocalOptions,
        root: Path,
        prefix: str,
        *,
        # Of commands: it runs none.
        timeout_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options, self._root, self._prefix, self._clock = options, root, prefix, clock
        # What has ended is read once.
        self._ended: dict[Path, Sighting] = {}
        # To be reaped.
        self._children: list[int] = []

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        ids: dict[int, BatchId] = {}
        for index in range(order.count):
            place = order.directory / str(index)
            try:
                (place / "script").write_text(order.script, "utf-8")
                self._spawn(place, order.walltime_s, index)
            except OSError as error:
                return Accepted(ids) if ids else Rejected(f"{place}: {error.strerror or error}")
            ids[index] = _id(tag, index)
        return Accepted(ids)

    def _spawn(self, place: Path, walltime_s: int, index: int) -> None:
        argv = ["sh", "-c", WRAPPER, "ailurus-worker", str(place.absolute()), str(walltime_s),
                str(self._options.grace_s), str(index), RUN]  # fmt: skip
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        null = subprocess.DEVNULL
        child = subprocess.Popen(
            argv, stdin=null, stdout=null, stderr=null, env=passed, start_new_session=True
        )
        failpoint("local.spawned")
        # It is not waited for here: its end is in its files.
        child.returncode = 0
        self._children.append(child.pid)
        _make_once(place / "spawned", _who(child.pid))

    def listing(self) -> tuple[Sighting, ...]:
        self._children = [pid for pid in self._children if os.waitpid(pid, os.WNOHANG)[0] == 0]
        return tuple(self._look(tag, place) for tag, place in self._places())

    def find(
        self, tag: Tag, ids: Collection[BatchId] = (), age_s: float = 0.0
    ) -> tuple[Sighting, ...]:
        """Of an order whose submission is in doubt: those that have not begun never will."""
        for place in _indices(self._root / tag):
            _make_once(place / "claim", VOID)
        return tuple(self._look(tag, place) for place in self._begun(tag))

    def cancel(self, ids: Collection[BatchId]) -> None:
        for batch_id in ids:
            tag, _, index = batch_id.rpartition(".")
            place = self._root / tag / index
            _make_once(place / "claim", VOID)
            _make_once(place / "cancelled", str(self._clock()))
            since = _number(_read(place / "cancelled"), self._clock())
            overdue = self._clock() - since >= self._options.grace_s
            _signal(_read(place / "running"), signal.SIGKILL if overdue else signal.SIGTERM)

    def _places(self) -> Iterator[tuple[Tag, Path]]:
        try:
            tags = sorted(place.name for place in self._root.glob(f"{self._prefix}*"))
        except OSError as error:
            raise BatchError(f"cannot read {self._root}: {error.strerror}") from None
        for tag in tags:
            yield from ((Tag(tag), place) for place in self._begun(Tag(tag)))

    def _begun(self, tag: Tag) -> Iterator[Path]:
        """Places of an order whose wrapper was started: only then there is a worker."""
        for place in _indices(self._root / tag):
            if (
                place in self._ended
                or _read(place / "spawned")
                or _read(place / "claim") not in ("", VOID)
            ):
                yield place

    def _look(self, tag: Tag, place: Path) -> Sighting:
        if place in self._ended:
            return self._ended[place]
        index = int(place.name)
        sighting = Sighting(batch_id=_id(tag, index), tag=tag, index=index, phase=Phase.STARTING)
        spawned, claim = _read(place / "spawned"), _read(place / "claim")
        if not claim:
            if _alive(spawned):
                return msgspec.structs.replace(sighting, phase=Phase.QUEUED)
            # Its wrapper died first, unless it claims just now.
            _make_once(place / "claim", VOID)
            claim = _read(place / "claim")
        # The order matters: a process that ends between two looks has left its record by the
        # second.
        alive = _alive(_read(place / "running")) or _alive(claim)
        record = _read(place / "ended")
        if alive and not record:
            return sighting
        ending, detail = _verdict(record, place, void=claim == VOID)
        sighting = Sighting(
            batch_id=sighting.batch_id,
            tag=tag,
            index=index,
            phase=Phase.ENDED,
            ending=ending,
            detail=detail,
        )
        self._ended[place] = sighting
        return sighting


def _id(tag: Tag | str, index: int) -> BatchId:
    return BatchId(f"{tag}.{index}")


_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def _indices(place: Path) -> list[Path]:
    try:
        return sorted(one for one in place.iterdir() if _INDEX.fullmatch(one.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BatchError(f"cannot read {place}: {error.strerror}") from None


def _verdict(record: str, place: Path, *, void: bool) -> tuple[Ending, str]:
    if _read(place / "cancelled"):
        return Ending.CANCELLED, "cancelled"
    if void:
        return Ending.FAILED, "its shell was killed before it began"
    code = int(_number(record, -1))
    if code < 0:
        return Ending.FAILED, with_last_words("was killed: no exit record", place)
    if code == 0:
        return Ending.DONE, ""
    if code == WALLTIME_EXIT:
        return Ending.WALLTIME, "reached its walltime"
    how = f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
    return Ending.FAILED, with_last_words(how, place)


_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


def _number(record: str, otherwise: float) -> float:
    """The first word of a record."""
    word, *_ = record.split(maxsplit=1) or [""]
    return float(word) if _NUMBER.fullmatch(word) else otherwise


_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def _read(path: Path) -> str:
    try:
        return read_tail(path)
    except OSError as error:
        if error.errno in _NO_FILE:
            return ""
        raise BatchError(f"cannot read {path}: {error.strerror}") from None


def _make_once(path: Path, text: str) -> bool:
    """Make `path` whole with `text`, unless it is there or its directory is not."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, "utf-8")
        name_once(str(new), str(path))
    except (FileExistsError, FileNotFoundError):
        return False
    except OSError as error:
        raise BatchError(f"cannot write {path}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
    return True


def _alive(who: str) -> bool:
    """Whether the process of a "PID STARTTIME BOOT" record is there and is the same one."""
    return who not in ("", VOID) and _who(int(_number(who, 0))) == who


def _who(pid: int) -> str:
    """The record of a process that runs; empty if none does."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    fields = stat[stat.rindex(")") + 2 :].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return "" if fields[0] in "ZX" else f"{pid} {fields[19]} {boot}"


def _signal(who: str, signum: signal.Signals) -> None:
    """Send a signal to exactly that process: held by a descriptor, then checked, then signalled."""
    if not _alive(who):
        return
    try:
        held = os.pidfd_open(int(who.split(maxsplit=1)[0]))
    except ProcessLookupError:
        return
    try:
        if _alive(who):
            signal.pidfd_send_signal(held, signum)
    except ProcessLookupError:
        pass
    finally:
        os.close(held)
