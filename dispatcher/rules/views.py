"""Jobs, attempts, workers and events of the store as the messages that users get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.query import Query
from ailurus.protocol.resources import Room
from ailurus.protocol.shown import shown
from ailurus.protocol.states import AttemptState, JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.ports import Row, Tx
from dispatcher.rules import records
from dispatcher.rules.worker_records import WorkerRecord

_room = msgspec.json.Decoder(Room).decode
_usage = msgspec.json.Decoder(m.Usage).decode
_hardware = msgspec.json.Decoder(Hardware).decode
_staging = msgspec.json.Decoder(m.Staging).decode
_curve = msgspec.json.Decoder(tuple[m.Sample, ...]).decode
_timing = msgspec.json.Decoder(dict[str, float]).decode
_data = msgspec.json.Decoder(dict[str, Any]).decode
F = TypeVar("F", InputFile, OutputFile, m.FileRecord)
S = TypeVar("S", JobSpec, ItemSpec)
NOWHERE = Room(cores=0)


class StoredJob(Struct, frozen=True):
    """A job as users see it, and since when it is ready."""

    row: m.JobRow
    activated: float | None


def find_job(tx: Tx, job_id: int) -> StoredJob | None:
    """A job of the queue."""
    row = tx.one("job.row", job_id=job_id)
    if row is None:
        return None
    *columns, activated = row
    return StoredJob(_job(columns), activated)


def jobs(tx: Tx, page: str, wanted: Query, now: float, **values: Any) -> list[m.JobRow]:
    """The jobs of a page, `job.page` or one like it, that match a query."""
    return [_job(row) for row in tx.search(page, wanted, now, **values)]


def _job(columns: Sequence[Any]) -> m.JobRow:
    job_id, name, queue, owner, state, attempt_nr, priority, created, changed, *rest = columns
    worker_id, code, diagnosis = rest
    return m.JobRow(
        job_id=job_id,
        name=name,
        queue=queue,
        user=owner,
        state=JobState(state),
        attempt_nr=attempt_nr,
        priority=priority,
        created=created,
        changed=changed,
        worker_id=worker_id,
        code=code,
        diagnosis=diagnosis,
    )


def attempts(tx: Tx, job_id: int) -> list[m.Attempt]:
    """The attempts of a job, in their order."""
    return [_attempt(row) for row in tx.all("attempt.of_job", job_id=job_id)]


def _attempt(row: Row) -> m.Attempt:
    *plain, usage, staging, timing, tail, result, registered = row
    attempt = dict(zip(_ATTEMPT, plain, strict=True))
    # What was stored before the payload began is no longer so.
    staged = staging is None or attempt["state"] == AttemptState.RUNNING
    return m.Attempt(
        **attempt,
        usage=_usage(usage) if usage else None,
        staging=None if staged else _staging(staging),
        timing=_timing(timing) if timing else {},
        stderr_tail=tail,
        result=result,
        registered=registered,
    )


_ATTEMPT = (
    "attempt_nr",
    "worker_id",
    "state",
    "site",
    "host",
    "leased",
    "started",
    "running",
    "holding",
    "ended",
    "exit_code",
    "code",
    "diagnosis",
    "remedy",
    "runtime",
)


def find_curve(tx: Tx, job_id: int, attempt_nr: int | None) -> tuple[m.Sample, ...]:
    """The samples of an attempt's heartbeats, and of one that has ended its final figures; None: of
    the latest attempt. A payload may be shorter than a heartbeat, and the last sample is never the
    whole."""
    row = tx.one("attempt.curve", job_id=job_id, attempt_nr=attempt_nr)
    _, stored, final, ended = row or (attempt_nr, None, None, None)
    samples = _curve(stored) if stored else ()
    if ended is None or not final:
        return samples
    usage = _usage(final)
    if not samples:
        return (m.Sample(at=ended, usage=usage),) if usage.wall_s else ()
    last = samples[-1]
    at = last.at + max(0.001, usage.wall_s - last.usage.wall_s)
    return (*samples, m.Sample(at=at, usage=usage))


def traced_job(tx: Tx, site: str, job_id: int) -> list[m.TracedAttempt]:
    """The attempts of a job at a site."""
    return [_traced(row) for row in tx.all("attempt.traced_job", site=site, job_id=job_id)]


def traced_worker(tx: Tx, site: str, worker_id: int) -> list[m.TracedAttempt]:
    """The attempts that a worker of a site had."""
    found = tx.all("attempt.traced_worker", site=site, worker_id=worker_id)
    return [_traced(row) for row in found]


def _traced(row: Row) -> m.TracedAttempt:
    job_id, attempt_nr, worker_id, state, host, leased, ended, code = row
    return m.TracedAttempt(
        job_id=job_id, attempt_nr=attempt_nr, worker_id=worker_id, state=state, host=host,
        leased=leased, ended=ended, code=code,
    )  # fmt: skip


def files(tx: Tx, job_id: int) -> list[m.FileRecord]:
    """The outputs of a job, and how far the registration of each is."""
    known = {one.name: one for one in records.registrations(tx, job_id)}
    return [
        replace(
            file,
            registration=known[file.name].state,
            reason=known[file.name].reason,
            remedy=known[file.name].remedy,
        )
        if file.name in known
        else file
        for file in map(_file, tx.all("file.of_job", job_id=job_id))
    ]


def files_of_item(tx: Tx, job_id: int, index: int) -> tuple[m.FileRecord, ...]:
    """What an item of a job left, as people may see it."""
    found = map(_file, tx.all("file.of_item", job_id=job_id, index=index))
    return tuple(map(_with_shown_url, found))


def _file(row: Row) -> m.FileRecord:
    name, url, size, adler32, maker, item = row
    return m.FileRecord(name=name, url=url, size=size, adler32=adler32, job_id=maker, item=item)


def for_people(detail: m.JobDetail) -> m.JobDetail:
    """All about a job, without what its URLs hold of secrets: what is stored is for pilots."""
    files = tuple(map(_with_shown_url, detail.files))
    return replace(detail, spec=spec_for_people(detail.spec), files=files)


def spec_for_people(spec: S) -> S:
    """What a job or an item asks for, likewise."""
    return replace(
        spec,
        inputs=tuple(map(_with_shown_url, spec.inputs)),
        outputs=tuple(map(_with_shown_url, spec.outputs)),
    )


def _with_shown_url(file: F) -> F:
    url = shown(file.url)
    return file if url == file.url else replace(file, url=url)


def worker(
    stored: WorkerRecord,
    *,
    heard: float | None = None,
    room: Room | None = None,
    jobs: tuple[int, ...] = (),
) -> m.WorkerRow:
    """A worker as users see it, with what memory knows more recently."""
    return m.WorkerRow(
        worker_id=stored.worker_id,
        site=stored.site,
        queue=stored.queue,
        host=stored.host,
        phase=Phase(stored.phase),
        ending=Ending(stored.ending) if stored.ending else None,
        registered=stored.registered or 0.0,
        last_heard=heard or stored.last_heard or 0.0,
        room=room or (_room(stored.room) if stored.room else NOWHERE),
        total=_room(stored.total) if stored.total else NOWHERE,
        jobs=jobs,
        intent=stored.intent,
        index=stored.idx,
        batch_id=stored.batch_id,
        version=stored.version,
        diagnosis=stored.diagnosis,
        hardware=_hardware(stored.hardware) if stored.hardware else None,
    )


def events(tx: Tx, after: int, job_id: int | None, most: int) -> list[m.Event]:
    """The events that follow the number `after`; with a job those of that job."""
    name = "event.after" if job_id is None else "event.of_job"
    return [
        m.Event(seq=seq, at=at, kind=kind, job_id=of_job, worker_id=worker_id, data=_data(data))
        for seq, at, kind, of_job, worker_id, data in tx.all(
            name, after=after, job_id=job_id, most=most
        )
    ]
