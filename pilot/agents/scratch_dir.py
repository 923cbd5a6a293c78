"""An agent's directory on its node, and those that dead agents have left there.

A lock on the directory says that its agent lives; the kernel takes it back however that ends. Where
an agent was killed together with its guardian, the next one on the node removes what is left. No
kernel tells another's of locks on directories, and many a site's scratch space is shared: so the
node is in their names, and each looks after its own.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import socket
from contextlib import suppress
from pathlib import Path

from ailurus.beneath import DIRECTORY
from pilot.workdir import remove_tree

PREFIX = "ailurus-agent-"
TRIES = 20


def make(workdir: Path) -> tuple[Path, int]:
    """A new directory in `workdir`, and the descriptor of its lock. Raises OSError."""
    for _ in range(TRIES):
        path = workdir / f"{PREFIX}{socket.gethostname()}-{os.urandom(8).hex()}"
        path.mkdir(mode=0o700, parents=True)
        # Before it has its lock another agent may take it for a dead one's.
        if (lock := _locked(path)) is not None:
            return path, lock
        with suppress(OSError):
            path.rmdir()
    raise OSError(errno.ENOLCK, f"no directory in {workdir} can be locked")


def sweep(workdir: Path) -> None:
    """Remove what dead agents of this user on this node have left in `workdir`."""
    ours = glob.escape(f"{PREFIX}{socket.gethostname()}-") + 16 * "[0-9a-f]"
    for path in workdir.glob(ours):
        if (lock := _locked(path)) is not None:
            remove_tree(path)
            os.close(lock)


def _locked(path: Path) -> int | None:
    """A lock on a directory of this user; None if another process has it, or it is gone."""
    try:
        fd = os.open(path, DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
    except OSError:
        os.close(fd)
        return None
    if found.st_uid != os.geteuid() or not found.st_nlink:
        os.close(fd)
        return None
    return fd
