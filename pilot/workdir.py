"""Directories of jobs: made for one attempt, read without following links, removed whatever is in
them.

PILOT/JOB.ATTEMPT/work      the payload's directory: inputs before, outputs after
                  tmp       its /tmp
                  stdout, stderr
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

from ailurus.beneath import DIRECTORY, entered
from ailurus.regular import open_regular
from pilot.blame import Target, job_error

SCRIPT = "ailurus_script"
"""What the pilot calls the script of a job, in the payload's directory."""
LAUNCH = ".ailurus"
"""What the pilot calls the directory of a launcher's files there. No file of a job begins with a
dot."""
# Entries looked at in one walk; a job with more is measured by these.
_WALKED = 50_000


class Workdir:
    """One attempt's directory. Nothing exists before `make`; leaving the `with` removes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path / "work"
        self.tmp = path / "tmp"
        self.stdout = path / "stdout"
        self.stderr = path / "stderr"
        self.empty = False
        """Nothing is in the payload's directories, and no payload runs any more that could change
        that."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not (self.empty and self._removed()):
            remove_tree(self.path)

    def _removed(self) -> bool:
        """Remove what is left by a payload that left nothing; False: there is more."""
        try:
            for stream in (self.stdout, self.stderr):
                stream.unlink()
            for directory in (self.directory, self.tmp, self.path):
                directory.rmdir()
        except OSError:
            return False
        return True

    def make(self) -> None:
        """Make the directories. Raises JobError, which the node is blamed for."""
        try:
            for directory in (self.path, self.directory, self.tmp):
                directory.mkdir(mode=0o700)
        except OSError as error:
            raise job_error(
                error, f"cannot make the job's directory {self.path}", Target.NODE
            ) from None

    def executes(self) -> bool:
        """Whether a file in the payload's directory can be executed: not where it is mounted
        noexec."""
        try:
            return not os.statvfs(self.directory).f_flag & os.ST_NOEXEC
        except OSError:
            return True

    def create(self, name: str, mode: int = 0o600) -> int:
        """A new file in the payload's directory, open for writing; the directories in its name are
        made. Raises OSError, also if the name is taken, or ValueError for one that leads out."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        parents, last = _parts(name)
        with self.beneath(parents, make=True) as parent:
            return os.open(last, flags, mode, dir_fd=parent)

    def replace(self, name: str, text: str) -> None:
        """Write a file of the payload's directory anew; whoever reads it sees the old text or the
        new. Raises OSError, or ValueError for a name that leads out."""
        parents, last = _parts(name)
        draft = f".{os.urandom(8).hex()}"
        with os.fdopen(self.create("/".join((*parents, draft))), "w", encoding="utf-8") as file:
            file.write(text)
        with self.beneath(parents) as here:
            os.rename(draft, last, src_dir_fd=here, dst_dir_fd=here)

    def is_taken(self, name: str) -> bool:
        """Whether something is there, or something else than a directory above it."""
        parents, last = _parts(name)
        try:
            with self.beneath(parents) as parent:
                os.stat(last, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def remove(self, name: str) -> None:
        """Remove a file or directory of the payload's, whatever it has made of it, as far as that
        goes."""
        parents, last = _parts(name)
        with contextlib.suppress(OSError), self.beneath(parents) as parent:
            try:
                os.unlink(last, dir_fd=parent)
            except IsADirectoryError:
                remove_tree(Path(f"/proc/self/fd/{parent}/{last}"))

    @contextlib.contextmanager
    def beneath(self, parts: Iterable[str], *, make: bool = False) -> Iterator[int]:
        """The directory `parts` of the payload's, open, reached without following a link; `make`:
        those that are missing are made. Raises OSError."""
        own = os.open(self.directory, DIRECTORY)
        here = entered(own, parts, make=0o700 if make else None)
        try:
            yield here
        finally:
            os.close(here)

    def adopt(self, incoming: Path, name: str) -> int:
        """Move a file that came beside the job's directory into the payload's, under `name`, whose
        directories are made; its size. ValueError if it is not a plain file of ours, else
        OSError."""
        parents, last = _parts(name)
        found = incoming.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise ValueError(f"what came as {name!r} is not a regular file of the pilot's")
        # Before it is there: a payload that runs could put a link in its place.
        incoming.chmod(0o600)
        with self.beneath(parents, make=True) as here:
            os.rename(incoming, last, dst_dir_fd=here)
            there = os.stat(last, dir_fd=here, follow_symlinks=False)
            if (there.st_ino, there.st_dev) != (found.st_ino, found.st_dev):
                os.unlink(last, dir_fd=here)
                raise ValueError(f"what came as {name!r} was exchanged meanwhile")
        return there.st_size

    def open(self, name: str) -> int:
        """A regular file beneath the payload's directory, open for reading; OSError(ELOOP…) or
        ValueError if it is anything else. `name` may have directories, but no `..` and no link."""
        parents, last = _parts(name)
        with self.beneath(parents) as here:
            return open_regular(last, here)

    def files(self, *, tmp: bool = True) -> Iterator[tuple[str, os.stat_result]]:
        """Regular files and directories beneath `work` and `tmp`, with their names from `path`
        on."""
        if self.empty:
            return
        seen = 0
        todo = [(self.directory, "work"), *([(self.tmp, "tmp")] if tmp else [])]
        while todo:
            directory, name = todo.pop()
            with contextlib.suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    if (seen := seen + 1) > _WALKED:
                        return
                    with contextlib.suppress(OSError):
                        found = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(found.st_mode):
                            todo.append((Path(entry.path), f"{name}/{entry.name}"))
                        if not stat.S_ISLNK(found.st_mode):
                            yield f"{name}/{entry.name}", found


def size_of(path: Path) -> int:
    """The bytes of a regular file; 0 for anything else. To open a stream costs more, and most are
    empty."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def tail_of(fd: int, most: int) -> tuple[int, bytes]:
    """The last `most` bytes of an open file, and where they start."""
    size = os.fstat(fd).st_size
    start = max(0, size - most)
    return start, os.pread(fd, most, start)


def _parts(name: str) -> tuple[list[str], str]:
    """The directories in a name, and its last part. Raises ValueError for one that leads out."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise ValueError(f"{name!r} leaves the job's directory")
    return list(parts[:-1]), parts[-1]


def remove_tree(top: Path) -> None:
    """Remove `top` with all in it, following no link and at any depth, closed directories included.

    Directories inside directories are first moved up to the top one: so neither paths, nor open
    descriptors, nor the stack grow with the depth that a payload chose.
    """
    try:
        root = _entered(os.fspath(top), None)
    except OSError:
        return
    moved = itertools.count()
    try:
        todo = _emptied(root)
        while todo:
            name = todo.pop()
            with contextlib.suppress(OSError):
                here = _entered(name, root)
                try:
                    for child in _emptied(here):
                        # To be moved it must be writable.
                        os.close(_entered(child, here))
                        fresh = f".ailurus-rm-{next(moved)}"
                        os.rename(child, fresh, src_dir_fd=here, dst_dir_fd=root)
                        todo.append(fresh)
                finally:
                    os.close(here)
                os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    with contextlib.suppress(OSError):
        top.rmdir()


def _entered(name: str, parent: int | None) -> int:
    """A directory opened for reading; one that the payload closed is opened up first."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            Path(f"/proc/self/fd/{handle}").chmod(0o700)
        return os.open(".", DIRECTORY, dir_fd=handle)
    finally:
        os.close(handle)


def _emptied(directory: int) -> list[str]:
    """Unlink all files in a directory; the names of the directories in it."""
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.name, dir_fd=directory)
    return below


def scratch(env: Mapping[str, str]) -> Path:
    """Where batch systems say that a job's scratch space is."""
    for name in ("OSG_WN_TMP", "SLURM_TMPDIR", "_CONDOR_SCRATCH_DIR", "TMPDIR"):
        if (value := env.get(name)) and os.access(value, os.W_OK):
            return Path(value)
    return Path("/tmp")  # noqa: S108 - beneath it a directory of mode 700 and a random name is made
