"""Small files that users upload for their jobs, as functions of a transaction.

A file is its owner's, under its SHA-256: what another has uploaded, nobody learns. It is kept as
long as the queue has a job of a submission that names it, or a task whose jobs do, and a day
longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.protocol.uploads import MOST_FILE_BYTES, PIECE_BYTES, named, too_large
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected

MOST, MOST_BYTES = 10_000, 1 << 30
"""Of one user."""
UNUSED_S = 86_400.0
"""After which a file is forgotten that no job needs."""
TOGETHER = 4
"""Pieces that are deleted in one commit."""


class Kept(Struct, frozen=True):
    """A file as far as it has come."""

    upload_id: int
    have: int


def find(tx: Tx, owner: str, digest: str, size: int) -> Kept | None:
    """A file of a user."""
    row = tx.one("upload.get", owner=owner, digest=digest, size=size)
    return None if row is None else Kept(*row)


def check(ask: m.AddUpload) -> None:
    """Raise Rejected for a piece that belongs into no file."""
    end = ask.first + len(ask.piece)
    if end > ask.size:
        raise Rejected(
            422,
            f"this piece ends at byte {end} of a file of {ask.size}",
            field="piece",
            remedy="`size` is of the whole file",
        )
    if len(ask.piece) not in (0, PIECE_BYTES) and end != ask.size:
        raise Rejected(
            422,
            f"a piece has {PIECE_BYTES} bytes, and only the last one fewer",
            field="piece",
            remedy="send the file in pieces of that size",
        )


def begun(tx: Tx, owner: str, ask: m.AddUpload, *, now: float) -> Kept:
    """A file of a user, from now on needed. Raises Rejected for more than a user may have."""
    found = find(tx, owner, ask.digest, ask.size)
    if found is not None:
        tx.run("upload.set", upload_id=found.upload_id, have=found.have, now=now)
        return found
    files, held = tx.one("upload.held", owner=owner) or (0, 0)
    if files >= MOST or held + ask.size > MOST_BYTES:
        raise Rejected(
            429,
            f"your {files} uploaded files have {held >> 20} MiB: a user may have {MOST} of "
            f"{MOST_BYTES >> 20} MiB together",
            field="size",
            remedy="put large ones on storage that the nodes reach; a file is forgotten a day after "
            "the last job that names it has left the queue",
        )
    tx.one("upload.add", owner=owner, digest=ask.digest, size=ask.size, now=now)
    found = find(tx, owner, ask.digest, ask.size)
    assert found is not None  # noqa: S101 -- it was just begun
    return found


def add(tx: Tx, owner: str, ask: m.AddUpload, *, now: float) -> int:
    """Store a piece if it is the next one. Returns how many bytes are here."""
    found = begun(tx, owner, ask, now=now)
    if found.have != ask.first or not ask.piece:
        return found.have
    have = ask.first + len(ask.piece)
    tx.run("upload_piece.add", upload_id=found.upload_id, first=ask.first, body=ask.piece)
    tx.run("upload.set", upload_id=found.upload_id, have=have, now=now)
    return have


def put(tx: Tx, owner: str, name: str, contents: bytes, *, now: float) -> str:
    """Store a whole file of a user, which the dispatcher itself has made and a job has by that
    name; its SHA-256. Raises AilurusError for one that does not travel with a job, and Rejected as
    `begun`."""
    size, digest = len(contents), sha256(contents).hexdigest()
    if size > MOST_FILE_BYTES:
        raise too_large(name, size, "")
    first = -1
    while first < size:
        kept = begun(tx, owner, m.AddUpload(digest=digest, size=size), now=now)
        if kept.have in (first, size):
            break
        first = kept.have
        piece = contents[first : first + PIECE_BYTES]
        add(tx, owner, m.AddUpload(digest=digest, size=size, first=first, piece=piece), now=now)
    return digest


def digest_of(tx: Tx, upload_id: int, end: int, last: bytes) -> str:
    """The SHA-256 of what is here up to a byte, with a last piece after it."""
    sum_, at = sha256(), 0
    while at < end and (piece := piece_at(tx, upload_id, at)):
        sum_.update(piece)
        at += len(piece)
    sum_.update(last)
    return sum_.hexdigest()


def piece_at(tx: Tx, upload_id: int, at: int) -> bytes:
    """What is in a piece of a file from a byte on; nothing at its end."""
    row = tx.one("upload_piece.at", upload_id=upload_id, at=at)
    if row is None:
        return b""
    first, body = row
    return bytes(body)[at - first :]


def cut(tx: Tx, upload_id: int, have: int) -> None:
    """Forget a file in part: its last pieces, of which `have` bytes are left if there are no
    more."""
    gone = tx.all("upload_piece.trim", upload_id=upload_id, most=TOGETHER)
    if gone:
        tx.run("upload.cut", upload_id=upload_id, have=min(have, *(first for (first,) in gone)))
    else:
        tx.run("upload.drop", upload_id=upload_id)


def use(tx: Tx, jobs: Iterable[JobSpec], owner: str, first: int, *, now: float) -> None:
    """Note which files the jobs of a submission name, of which `first` is the id of the first.
    Raises Rejected for one that is not here."""
    seen: dict[int, tuple[int, int]] = {}
    known: dict[tuple[str, int], Kept] = {}
    for nr, place, upload, size in named(jobs):
        key = upload.digest, size
        kept = known.get(key) or find(tx, owner, *key)
        if kept is None or kept.have != size:
            raise Rejected(
                422,
                "this uploaded file is not here" if kept is None else "it has come only in part",
                field=f"jobs[{nr}].inputs[{place}].url",
                remedy="submit the job file again: the file is uploaded then; a program calls "
                "POST /uploads first",
            )
        known[key] = kept
        seen[kept.upload_id] = seen.get(kept.upload_id, (first + nr, 0))[0], first + nr
    for kept in known.values():
        begin, end = seen[kept.upload_id]
        tx.run("upload_use.add", upload_id=kept.upload_id, first=begin, last=end)
        tx.run("upload.set", upload_id=kept.upload_id, have=kept.have, now=now)


def use_for_task(tx: Tx, jobs: Iterable[JobSpec], owner: str, task_id: int, *, now: float) -> None:
    """Keep the files that the jobs of a task name as long as there is the task. Raises Rejected for
    one that is not here."""
    for nr, place, upload, size in named(jobs):
        kept = find(tx, owner, upload.digest, size)
        if kept is None or kept.have != size:
            raise Rejected(
                422,
                "this uploaded file is not here",
                field=f"steps[{nr}].job.inputs[{place}].url",
                remedy="upload it again",
            )
        tx.run("upload_task.add", upload_id=kept.upload_id, task_id=task_id)
        tx.run("upload.set", upload_id=kept.upload_id, have=kept.have, now=now)


def trim(tx: Tx, *, now: float) -> bool:
    """Delete some of a file that no job needs. Whether there may be more."""
    row = tx.one("upload.old", before=now - UNUSED_S)
    if row is None:
        return False
    upload_id, have = row
    tx.run("upload_use.forget", upload_id=upload_id)
    tx.run("upload_task.forget", upload_id=upload_id)
    if not any(
        tx.one(f"{table}.any", upload_id=upload_id) for table in ("upload_use", "upload_task")
    ):
        cut(tx, upload_id, have)
    else:
        # It is looked at again after a day.
        tx.run("upload.set", upload_id=upload_id, have=have, now=now)
    return True
