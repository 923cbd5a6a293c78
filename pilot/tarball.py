"""The log of a failed attempt: its output, its notes and what it left, as one tar file in storage."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import IO

from ailurus.protocol.errors import Code
from ailurus.protocol.messages import DoneFile
from pilot.held import Held
from pilot.ports import JobError
from pilot.stage import LOG, Stage
from pilot.workdir import Workdir, tail_of

MEMBER_BYTES, TOTAL_BYTES, MEMBERS = 2_000_000, 20_000_000, 500
NOT_WORTH_IT = {Code.KILLED_BY_SERVER, Code.SIGTERM, Code.SIGINT, Code.SIGXCPU, Code.SIGUSR1}


def keep_log(
    held: Held, work: Workdir, stage: Stage, error: JobError | None
) -> tuple[DoneFile, ...]:
    """Put the log tarball into the site's default storage, if there is one. Never raises: what became
    of the job is what is reported."""
    unwanted = error is not None and error.code in NOT_WORTH_IT and not held.assignment.keep_log
    if unwanted or not stage.has_default or not work.path.is_dir():
        return ()
    if error is not None:
        held.note(str(error))
    try:
        with tempfile.TemporaryFile(dir=work.path) as file:
            write(held, work, file)
            file.flush()
            return (stage.put(held, LOG, file.fileno()),)
    except (JobError, OSError) as problem:
        held.note(f"no log tarball: {problem}")
        return ()


def write(held: Held, work: Workdir, into: IO[bytes]) -> None:
    """Regular files only, opened without following a link, the ends of long ones, bounded in all."""
    import tarfile

    skipped = {f"work/{file.name}" for file in held.spec.inputs}
    skipped |= {f"work/{file.name}" for file in held.spec.outputs}
    left = TOTAL_BYTES
    with tarfile.open(fileobj=into, mode="w:gz", compresslevel=5) as tar:
        for name, data in _members(held, work, skipped):
            if (left := left - len(data)) < 0:
                break
            member = tarfile.TarInfo(f"{held.name}/{name}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


def _members(held: Held, work: Workdir, skipped: set[str]) -> Iterator[tuple[str, bytes]]:
    yield "pilot.log", "\n".join([*held.notes, ""]).encode("utf-8", "replace")
    for path in (work.stdout, work.stderr):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                yield path.name, tail_of(fd, MEMBER_BYTES)[1]
            finally:
                os.close(fd)
    count = 0
    for name, _ in work.files():
        if name in skipped or not name.startswith("work/"):
            continue
        try:
            fd = work.open(name.removeprefix("work/"))
        except (OSError, ValueError):
            continue
        try:
            yield name, tail_of(fd, MEMBER_BYTES)[1]
        finally:
            os.close(fd)
        if (count := count + 1) >= MEMBERS:
            return
