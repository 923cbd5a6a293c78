"""The file by which agents get the key of their allocation."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ailurus.protocol.errors import AilurusError
from pilot.agents.link import KEY_BYTES


def write_key(path: Path, key: bytes) -> None:
    """Have the key there, for this user alone, whole from the moment that it has its name. Raises
    OSError."""
    if path.exists():
        return
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(key.hex())
    draft.rename(path)


def read_key(path: Path) -> bytes:
    """The allocation's key. Raises AilurusError unless it is this user's alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            text = os.read(fd, 2 * KEY_BYTES + 2)
        finally:
            os.close(fd)
        private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077
        if not private or found.st_uid != os.geteuid():
            raise AilurusError(f"{path} is not a file of this user's alone")
        key = bytes.fromhex(text.decode("ascii"))
    except OSError as error:
        raise AilurusError(
            f"cannot read the allocation's key {path}: {error.strerror}",
            remedy="is the pilot's work directory on a file system that all nodes share?",
        ) from None
    except ValueError:
        raise AilurusError(f"{path} has no key in it") from None
    if len(key) != KEY_BYTES:
        raise AilurusError(f"{path} has no key in it")
    return key
