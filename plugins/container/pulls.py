"""Images fetched from registries by Apptainer, and what tells one from another: their digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ailurus.protocol.errors import Code
from pilot.ports import Check, JobError, ProcessEnd, ProcessSpec, Spawner
from plugins.container.mounts import PROGRAMS

PULL_S = 3600.0
ROOM = 0.9
"""Of what is free on its file system, an image on its way takes so much at most."""
MOST_ENTRIES = 2_000_000
"""Files and directories that an image on its way may have."""
_GROWN_BYTES, _GROWN_ENTRIES = 64 << 20, 50_000
"""It is measured again when the file system has so much more."""
_SHARE = 0.1
"""Of a core, for that."""
_SAID_BYTES = 2000
_PIECE_BYTES = 1 << 22
_LOOK_S = 0.2


def apptainer(directory: str) -> str | None:
    """The command of Apptainer or Singularity, in `directory` or where programs are; None: it is
    not on this node."""
    path = f"{directory}:{PROGRAMS}" if directory else PROGRAMS
    return shutil.which("apptainer", path=path) or shutil.which("singularity", path=path)


def pull_command(program: str, name: str, into: Path) -> Sequence[str]:
    """How an image is fetched: whole into a file that is not there."""
    return [program, "--silent", "pull", "--disable-cache", "--force", str(into), name]


def pull(
    program: str | None, spawner: Spawner, name: str, place: Path, most_bytes: int, check: Check
) -> str:
    """Fetch an image to `place`, whole or not at all; its SHA-256. Its lock is held alone. On its
    way it takes `most_bytes` of the disk at most: what a registry sends may unpack to anything."""
    if program is None:
        raise JobError(
            Code.APPTAINER_MISSING,
            f"this node has no Apptainer, which fetches the image {name}",
            field="container",
            remedy="install Apptainer or name its directory in `container.apptainer`, or put the image "
            "into one of `container.images`",
        )
    work = place.with_suffix(".new")
    remove(work)
    work.mkdir(mode=0o700)
    part, said = work / "image.sif", work / "log"
    own = {"PATH": PROGRAMS, "HOME": str(work), "TMPDIR": str(work)}
    fetching = ProcessSpec(
        argv=pull_command(program, name, part),
        environment={**network(os.environ), **own},
        stdout=str(said),
        stderr=str(said),
    )
    room = _Room(name, work, most_bytes)

    def both() -> None:
        check()
        room.check()

    try:
        if _ended(spawner, fetching, both, name):
            raise JobError(
                Code.IMAGE_NOT_FOUND,
                f"cannot fetch the image {name}: {_last(said)}",
                field="container",
                remedy="is the reference right, and does this node reach the registry?",
                transient=True,
            )
        part.chmod(0o500)
        room.check(last=True)
        fetched = digest(part, check)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(place)
        return fetched
    finally:
        remove(work)


class _Room:
    """What a fetch may take of the disk. A walk costs as much as it is long: so there is none while
    the file system has no more in it."""

    def __init__(self, name: str, work: Path, most_bytes: int) -> None:
        self._name, self._work = name, work
        self._seen, self._next = _used(work), 0.0
        self._free, self._most = int(ROOM * self._seen.free), most_bytes

    def check(self, *, last: bool = False) -> None:
        """Raise JobError if it takes more."""
        now = time.monotonic()
        if not last and now < self._next:
            return
        used = _used(self._work)
        more_bytes, more_entries = used.bytes - self._seen.bytes, used.entries - self._seen.entries
        if not last and more_bytes < _GROWN_BYTES and more_entries < _GROWN_ENTRIES:
            # Others may remove theirs meanwhile.
            self._seen = used if more_bytes < 0 else self._seen
            return
        taken, entries = _taken(self._work, MOST_ENTRIES)
        self._seen = used
        self._next = now + (time.monotonic() - now) / _SHARE
        if taken > self._most or entries > MOST_ENTRIES:
            raise JobError(
                Code.IMAGE_UNUSABLE,
                f"the image {self._name} takes more than {self._most} bytes or {MOST_ENTRIES} files "
                "of this node's disk while it is fetched",
                field="container",
                remedy="name a smaller image, or let the site raise `container.cache_size`",
                transient=False,
            )
        if taken > self._free:
            raise JobError(
                Code.NO_LOCAL_SPACE,
                f"the image {self._name} takes more of this node's disk than the {self._free} bytes "
                "that it has for it",
                field="container",
                remedy="free space there, or let `container.cache` name a larger disk",
            )


class _Used(NamedTuple):
    """Of a file system: bytes and inodes that are used, and bytes that are free to this user."""

    bytes: int
    entries: int
    free: int


def _used(directory: Path) -> _Used:
    found = os.statvfs(directory)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return _Used(used, found.f_files - found.f_ffree, found.f_bavail * found.f_frsize)


def _taken(top: Path, most: int) -> tuple[int, int]:
    """Bytes on disk beneath a directory, and entries, of which little more than `most` are looked
    at. What goes away meanwhile is not there."""
    taken = entries = 0
    todo = [str(top)]
    while todo and entries <= most:
        here = todo.pop()
        with suppress(OSError), _listed(here) as found:
            for entry in found:
                entries += 1
                with suppress(OSError):
                    taken += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(f"{here}/{entry.name}")
    return taken, entries


@contextmanager
def _listed(directory: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """What is in a directory; one that its image shuts is opened to its user, who could not pack it
    either. Raises OSError."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        itself = f"/proc/self/fd/{handle}"
        if os.fstat(handle).st_mode & 0o500 != 0o500:
            Path(itself).chmod(0o700)
        with os.scandir(itself) as found:
            yield found
    finally:
        os.close(handle)


def network(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the pilot's own environment, how registries are reached and known."""
    names = (
        "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    )  # fmt: skip
    return {name: environment[name] for name in names if name in environment}


def remove(directory: Path) -> None:
    """Remove what a fetch left. The directories of an image may be read-only."""

    def opened(_: object, path: str, __: object) -> None:
        with suppress(OSError):
            Path(path).parent.chmod(0o700)
            Path(path).chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
            Path(path).unlink()

    with suppress(OSError):
        shutil.rmtree(directory, onerror=opened)


def _ended(spawner: Spawner, fetching: ProcessSpec, check: Check, name: str) -> int:
    """How it ended: 0 if all is well. Ends it when the job is to stop."""
    over = threading.Event()
    results: list[ProcessEnd] = []

    def done(ended: ProcessEnd) -> None:
        results.append(ended)
        over.set()

    key = spawner.spawn(fetching, done)
    deadline = time.monotonic() + PULL_S
    try:
        while not over.wait(_LOOK_S):
            check()
            if time.monotonic() > deadline:
                raise JobError(
                    Code.STAGE_IN_TIMEOUT,
                    f"the image {name} was not fetched within {PULL_S:.0f} s",
                    field="container",
                    remedy="look at the registry and the way to it, or name a smaller image",
                )
    except JobError:
        spawner.signal(key, signal.SIGKILL)
        over.wait(_LOOK_S)
        raise
    return results[0].exit_code or results[0].errno


def _last(said: Path) -> str:
    with said.open("rb") as file:
        file.seek(max(0, said.stat().st_size - _SAID_BYTES))
        lines = file.read(_SAID_BYTES).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "Apptainer does not say why"


def digest(path: Path, check: Check) -> str:
    """The SHA-256 of a file. Raises JobError when the job is to stop, and OSError."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
            check()
    return found.hexdigest()
