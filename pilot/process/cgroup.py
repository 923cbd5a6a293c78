"""Cgroups of payloads: the kernel holds each to its memory between two looks of the sampler, and
counts what it kills there.

    OURS/ailurus-INSTANCE/NAME      a payload
                          NAME/PART a process of it that has a limit of its own
                          NAME/rest version 2: all others of a payload that has such parts
                          pilot     version 2: this pilot and whoever started it, since a cgroup
                                    that limits others has no processes itself

They are made where this process may: version 2 where its own cgroup was delegated to it, version 1
where its directory is its own. The user of a payload owns these files, too, so one is for payloads
that see none of them: in a sandbox, and without mounts of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pilot.process import proc

# For the container's own program, and what the kernel has for its processes.
BESIDE_BYTES, BESIDE_SHARE = 16 << 20, 50
_HUGE_PAGE_BYTES = 2 << 20
_PROCESSES, _SUBTREE, _MEMORY = "cgroup.procs", "cgroup.subtree_control", "memory"
_HOME = "pilot"
_DELEGATED = ("trusted.delegate", "user.delegate")


class _Kind:
    """How cgroups are made and limited here."""

    def __init__(self, home: int, *, v2: bool, make: Callable[[Path], None]) -> None:
        """`home`: the guardian's own, open."""
        self.home, self.v2, self._make = home, v2, make

    def limited(self, directory: Path, memory_kb: int) -> None:
        """Make one with a limit on memory. Raises OSError, and leaves none then."""
        kb = memory_kb + memory_kb // BESIDE_SHARE
        limit = (kb << 10) + BESIDE_BYTES
        # What limits memory, and what limits it with or to swap.
        memory, swap, of_swap = "memory.max", "memory.swap.max", 0
        if not self.v2:
            memory, swap, of_swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", limit
        self._make(directory)
        try:
            _write(directory / memory, limit)
        except OSError:
            _remove(directory)
            raise
        with suppress(OSError):
            _write(directory / swap, of_swap)

    def rest(self, directory: Path) -> Path:
        """Where processes go of a cgroup that is divided. Raises OSError."""
        if not self.v2:
            return directory
        _write(directory / _SUBTREE, f"+{_MEMORY}")
        self._make(directory / "rest")
        return directory / "rest"


class Group:
    """The cgroup of a payload, or of a process of one."""

    def __init__(self, kind: _Kind, directory: Path, entrance: Path) -> None:
        """`entrance`: itself, or the one below in which its processes are. Raises OSError."""
        self._kind, self.directory, self._counting = kind, directory, entrance
        self.entrance = (_opened(entrance / _PROCESSES), kind.home)
        """Descriptors: where a process is put into it, and where the guardian goes back to its own.
        They work in any namespace."""

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for memory; those of its parts are
        theirs."""
        events = "memory.events" if self._kind.v2 else "memory.oom_control"
        return proc.counter(str(self._counting / events), b"oom_kill") or 0

    def was_full(self) -> bool:
        """Whether its own limit was reached, and not only that of one above it."""
        if self._kind.v2:
            return bool(proc.counter(str(self.directory / "memory.events"), b"oom"))
        # Not every kernel counts that: but it was at its limit once, to a huge page.
        most, limit = (
            int(_read(self.directory / f"memory.{name}_in_bytes") or 0)
            for name in ("max_usage", "limit")
        )
        return most > limit - _HUGE_PAGE_BYTES

    def part(self, name: str, memory_kb: int) -> Group | None:
        """One for a process of a payload whose cgroup was made to be divided; None: as `group`."""
        return _made(self._kind, self.directory / name, memory_kb, divided=False)

    def remove(self) -> bool:
        """Nothing is started in it any more. Whether it is gone: what still runs there keeps it."""
        os.close(self.entrance[0])
        return _remove(self.directory)


def _made(kind: _Kind, directory: Path, memory_kb: int, *, divided: bool) -> Group | None:
    try:
        kind.limited(directory, memory_kb)
    except OSError:
        return None
    try:
        return Group(kind, directory, kind.rest(directory) if divided else directory)
    except OSError:
        _remove(directory)
        return None


def _remove(directory: Path) -> bool:
    """Remove a cgroup and those below it. Whether it is gone: what still runs there keeps it."""
    try:
        for below in [path for path in directory.iterdir() if path.is_dir()]:
            _remove(below)
        directory.rmdir()
    except OSError:
        return not directory.exists()
    return True


class Groups:
    """Those of a pilot's payloads. Leave nothing: `close`."""

    def __init__(
        self,
        directory: Path,
        home: Path,
        *,
        v2: bool,
        make: Callable[[Path], None] = Path.mkdir,
    ) -> None:
        """Raises OSError."""
        self.directory, self.v2 = directory, v2
        self._kind = _Kind(_opened(home / _PROCESSES), v2=v2, make=make)
        # Of payloads that were over while something of theirs still ended.
        self._left: list[Path] = []

    def group(self, name: str, memory_kb: int, *, divided: bool = False) -> Group | None:
        """A new one with a limit on memory; None: the kernel has no more, or refuses. `divided`:
        processes of it are to have limits of their own (`Group.part`)."""
        self._left = [path for path in self._left if not _remove(path)]
        return _made(self._kind, self.directory / name, memory_kb, divided=divided)

    def remove(self, group: Group) -> None:
        """Of a payload that is over."""
        if not group.remove():
            self._left.append(group.directory)

    def close(self) -> None:
        """Remove all. What still runs in one keeps it."""
        os.close(self._kind.home)
        leave_nothing(self.directory, v2=self.v2)


def leave_nothing(directory: Path, *, v2: bool) -> None:
    """Remove the cgroups of a pilot, as far as nothing runs there, with what was done to make them.
    Pilot and guardian both do that: either may be killed."""
    if not directory.exists():
        return
    _remove(directory)
    if v2:
        own, home = directory.parent, directory / _HOME
        for group in (directory, own):
            with suppress(OSError):
                _write(group / _SUBTREE, f"-{_MEMORY}")
        _move(_read(home / _PROCESSES).split(), own)
        _remove(directory)


def find(
    instance: str,
    kin: Callable[[], Collection[int]],
    *,
    asked: bool = False,
    root: Path = Path("/"),
    make: Callable[[Path], None] = Path.mkdir,
) -> Groups | None:
    """Where this pilot makes cgroups; None: nowhere.

    `kin`: tells this process, what it has started and who has started it, which have to move in
    version 2. `asked`: the site says so, and it need not be told by who made the cgroup that it was
    delegated (root may write to any). `root`: where /proc and /sys are.
    """
    top = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, below = line.split(":", 2)
        if ".." in below.split("/"):
            continue
        if controllers == "":
            found = _version_2(top / below.strip("/"), instance, kin, asked, make)
        elif _MEMORY in controllers.split(","):
            found = _version_1(top / _MEMORY / below.strip("/"), instance, asked, make)
        else:
            continue
        if found is not None:
            return found
    return None


def _version_1(
    own: Path, instance: str, asked: bool, make: Callable[[Path], None]
) -> Groups | None:
    # Where cgroups do not add up, a payload would be free of the batch system's limit.
    if not _ours(own, asked) or _read(own / "memory.use_hierarchy") == "0":
        return None
    directory = own / f"ailurus-{instance}"
    try:
        make(directory)
        return Groups(directory, own, v2=False, make=make)
    except OSError:
        return None


def _version_2(
    own: Path,
    instance: str,
    kin: Callable[[], Collection[int]],
    asked: bool,
    make: Callable[[Path], None],
) -> Groups | None:
    if _MEMORY not in _read(own / "cgroup.controllers").split():
        return None
    # The topmost one has no type: nothing can be delegated there.
    if not _ours(own, asked) or not (own / "cgroup.type").exists():
        return None
    # Somebody else's processes are not ours to move.
    if not {int(pid) for pid in _read(own / _PROCESSES).split()} <= set(kin()):
        return None
    directory = own / f"ailurus-{instance}"
    home = directory / _HOME
    try:
        make(directory)
        make(home)
        _move(_read(own / _PROCESSES).split(), home)
        for group in (own, directory):
            _write(group / _SUBTREE, f"+{_MEMORY}")
        return Groups(directory, home, v2=True, make=make)
    except OSError:
        leave_nothing(directory, v2=True)
        return None


def _ours(own: Path, asked: bool) -> bool:
    """Whether this process may make cgroups below its own."""
    if not all(os.access(path, os.W_OK) for path in (own, own / _PROCESSES)):
        return False
    if asked or os.geteuid() != 0:
        return True
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(own, name) == b"1":
                return True
    return False


def _move(pids: Collection[str], to: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            _write(to / _PROCESSES, pid)


@contextmanager
def inside(entrance: Sequence[int]) -> Iterator[None]:
    """What this process starts meanwhile is in a cgroup from its first instruction on: this process
    is, too. Where that fails, the sampler alone holds the payload to its limit."""
    if not entrance:
        yield
        return
    there, back = entrance
    with suppress(OSError):
        os.write(there, b"0")
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(back, b"0")


def _opened(file: Path) -> int:
    # Never made: such a file is the kernel's.
    return os.open(file, os.O_WRONLY | os.O_CLOEXEC)


def _write(file: Path, text: object) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(handle, str(text).encode())
    finally:
        os.close(handle)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
