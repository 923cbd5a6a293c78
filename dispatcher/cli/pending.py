"""Request ids of submissions that nobody has acknowledged yet.

A submit that was killed and is repeated must give the same jobs, not more. So its id is on disk
before it is sent, under the digest of where it goes and what it says, and leaves when the answer is
there. Two at once of the same content wait for each other: they are two submissions.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from ailurus.protocol.job import JobSpec
from ailurus.protocol.task import Task
from dispatcher.cli.exits import CANNOT_CREATE, CommandError


@contextmanager
def request_id(url: str, content: Sequence[JobSpec] | Task, **more: object) -> Iterator[str]:
    """The id of this submission, of which `more` is said than its content; forgotten at the end
    unless the block raises."""
    said = msgspec.json.encode(content) + (
        msgspec.json.encode(more, order="sorted") if more else b""
    )
    digest = sha256(url.encode() + b"\n" + said).hexdigest()
    try:
        handle = _locked(_directory() / digest)
    except OSError as error:
        raise CommandError(
            CANNOT_CREATE,
            f"cannot remember the submission: {error}",
            remedy="set XDG_STATE_HOME, or give --request-id",
        ) from None
    try:
        known = os.read(handle, 100).decode("ascii", "replace").strip()
        if not known:
            known = uuid.uuid4().hex
            os.write(handle, known.encode())
            os.fsync(handle)
        yield known
        (_directory() / digest).unlink(missing_ok=True)
    finally:
        os.close(handle)


def _directory() -> Path:
    import platformdirs

    directory = Path(platformdirs.user_state_dir("ailurus"), "submissions")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def _locked(path: Path) -> int:
    """The file, opened and locked. Whoever held it before may have removed it meanwhile."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
