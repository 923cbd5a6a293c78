"""A copy of the queue at one instant, taken while it is served, and a queue made from a copy.

After a restore jobs, events and workers get ids beyond a gap, so no id that was given out after the
back-up is given again. A pilot that took a job after the back-up thus cannot report for an attempt
of the restored queue, whose workers have other numbers.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from ailurus.protocol.errors import AilurusError
from dispatcher.ports import Tx
from dispatcher.store import SQLITE as PREFIX
from dispatcher.store import open_store, path_of

# Ids that a restore leaves out: more than are given between two back-ups.
GAP = 1_000_000
FILE, DUMP = "queue.db", "queue.pgdump"
LONGEST_S = 6 * 3600.0


def save(url: str, folder: Path) -> Path:
    """Copy the queue into `folder`, and look whether the copy is whole. Raises AilurusError."""
    path = path_of(url)
    if path is None:
        target = folder / DUMP
        _run(["pg_dump", "--format=custom", "--no-owner", f"--file={target}"], url)
        return target
    target = folder / FILE
    if not path.exists():
        raise AilurusError(f"there is no store {path}", field="--store", remedy="dispatcher init")
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
            # In one step: a snapshot, while the dispatcher goes on writing.
            source.backup(copy)
            if (fault := copy.execute("pragma quick_check").fetchone()[0]) != "ok":
                raise AilurusError(f"the copy is not whole: {fault}", remedy="is the disk sound?")
    except sqlite3.Error as error:
        raise AilurusError(f"cannot copy {path}: {error}", remedy="is it a store?") from None
    return target


def load(url: str, folder: Path) -> None:
    """Make the queue from the copy in `folder`. Raises AilurusError, also if a queue is there."""
    path = path_of(url)
    if path is not None:
        _load_file(path, _there(folder / FILE))
        return
    if not _empty(url):
        raise AilurusError(
            f"the database {urlsplit(url).path[1:]} is not empty",
            field="--store",
            remedy="make another one: createdb NAME",
        )
    copy = _there(folder / DUMP)
    _run(["pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", str(copy)], url)
    asyncio.run(_begin_anew(url))


def _load_file(path: Path, copied: Path) -> None:
    """The file gets its name when it is whole and its gap is made."""
    if path.exists():
        raise AilurusError(
            f"{path} is there",
            field="--store",
            remedy="move it away, with its -wal, or name another",
        )
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One may be left of a restore that was killed.
        draft.unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(copied)) as source, closing(sqlite3.connect(draft)) as copy:
            source.backup(copy)
        asyncio.run(_begin_anew(f"{PREFIX}{draft}"))
        draft.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise AilurusError(f"cannot make {path} from {copied}: {error}") from None
    finally:
        for left in path.parent.glob(f"{draft.name}*"):
            left.unlink()


async def _begin_anew(url: str) -> None:
    store = open_store(url)
    try:
        await store.write(_leave_a_gap)
    finally:
        await store.close()


def _leave_a_gap(tx: Tx) -> None:
    tx.one("series.take", name="job", by=GAP)
    taken = tx.one("series.take", name="event", by=GAP)
    seq = taken[0] if taken else GAP
    tx.run("event.add", seq=seq, at=0.0, kind="restored", job_id=None, worker_id=None, data="{}")
    tx.run("worker.skip", by=GAP)


def _empty(url: str) -> bool:
    tables = "select count(*) from pg_tables where tablename = 'job'"
    out = _run(["psql", "--no-psqlrc", "-Atc", tables], url)
    return out.strip() == "0"


def _there(path: Path) -> Path:
    if not path.is_file():
        raise AilurusError(
            f"there is no {path}",
            field="--from",
            remedy="name a folder that `dispatcher backup` made",
        )
    return path


def _run(argv: Sequence[str], url: str) -> str:
    """A program of PostgreSQL on the database, without its password where others could see it."""
    parts = urlsplit(url)
    environment = dict(os.environ)
    if parts.password:
        environment["PGPASSWORD"] = unquote(parts.password)
        url = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@", 1)))
    try:
        done = subprocess.run(
            [*argv, f"--dbname={url}"],
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LONGEST_S,
            env=environment,
        )
    except OSError as error:
        raise AilurusError(
            f"cannot run {argv[0]}: {error.strerror}", remedy="install PostgreSQL's client programs"
        ) from None
    if done.returncode:
        raise AilurusError(f"{argv[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
