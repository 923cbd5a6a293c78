"""PostgreSQL as bare peers use it: one writer thread, all that arrives during a commit shares the
next, in two statements: one for all heartbeats, one for all that ask for a job."""

from __future__ import annotations

import asyncio
import queue
import threading

import psycopg

from benchmarks.bare.store import BODY

SCHEMA = """
create table job (id bigint primary key, state int, queue int, prio int, worker int, beat float8)
    with (fillfactor = 60);
create index ready on job (queue, prio desc, id) where state = 0;
create table body (id bigint primary key, body bytea);
"""
BEAT = """update job set state = 1, beat = beat + 1 from unnest(%(ids)s::bigint[]) as asked(id)
    where job.id = asked.id"""
TAKE = """with best as materialized (
        select id from job where queue = 0 and state = 0 order by prio desc, id limit %(most)s
        for update skip locked),
    taken as (update job set state = 1, worker = 1 from best where job.id = best.id returning job.id)
    select id, body from taken join body using (id)"""
Asked = tuple[int, asyncio.Future[bytes]]  # the job that is beaten, 0 for who wants one


def make(url: str, jobs: int) -> psycopg.Connection:
    """A database with jobs queued."""
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(SCHEMA)
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy("copy job from stdin") as rows:
            for nr in range(1, jobs + 1):
                rows.write_row((nr, 0, 0, nr % 10, 0, 0.0))
        with cursor.copy("copy body from stdin (format binary)") as rows:
            rows.set_types(["int8", "bytea"])
            for nr in range(1, jobs + 1):
                rows.write_row((nr, BODY))
    connection.execute("vacuum analyze")
    return connection


class Batch:
    """The writer thread."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def beat(self, job_id: int) -> asyncio.Future[bytes]:
        """Done when the job's heartbeat is durable."""
        return self._ask(job_id)

    def take(self) -> asyncio.Future[bytes]:
        """The best job of the queue, handed out."""
        return self._ask(0)

    def _ask(self, job_id: int) -> asyncio.Future[bytes]:
        done = asyncio.get_running_loop().create_future()
        self._asked.put((job_id, done))
        return done

    def _serve(self) -> None:
        while True:
            batch = [self._asked.get()]
            while len(batch) < 512 and not self._asked.empty():
                batch.append(self._asked.get())
            beats = sorted({job_id for job_id, _ in batch if job_id})
            most = sum(not job_id for job_id, _ in batch)
            with self._connection.pipeline(), self._connection.transaction():
                self._connection.execute(BEAT, {"ids": beats})
                taken = self._connection.execute(TAKE, {"most": most}, binary=True)
            jobs = iter(taken.fetchall())
            answers = [b'{"ok":true}' if job_id else _job(next(jobs, None)) for job_id, _ in batch]
            batch[0][1].get_loop().call_soon_threadsafe(_answer, batch, answers)


def _job(row: tuple[int, bytes] | None) -> bytes:
    return b"{}" if row is None else b'{"id":%d,"spec":%s}' % row


def _answer(batch: list[Asked], answers: list[bytes]) -> None:
    for (_, done), answer in zip(batch, answers, strict=True):
        if not done.cancelled():
            done.set_result(answer)
