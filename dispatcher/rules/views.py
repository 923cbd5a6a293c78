"""Rows of the store as messages. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.resources import Room
from ailurus.protocol.shown import shown
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.ports import Row

_room = msgspec.json.Decoder(Room).decode
_usage = msgspec.json.Decoder(m.Usage).decode
_curve = msgspec.json.Decoder(tuple[m.Sample, ...]).decode
_timing = msgspec.json.Decoder(dict[str, float]).decode
_data = msgspec.json.Decoder(dict[str, Any]).decode
F = TypeVar("F", InputFile, OutputFile, m.FileRecord)
NOWHERE = Room(cores=0)


def job(row: Row) -> m.JobRow:
    """A row of `job.page` or `job.row`."""
    (
        job_id,
        name,
        queue,
        owner,
        state,
        attempt_nr,
        priority,
        created,
        changed,
        worker_id,
        code,
        diagnosis,
    ) = row[:12]
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


def attempt(row: Row) -> m.Attempt:
    """A row of `attempt.of_job`."""
    *plain, usage, timing, tail, registered = row
    return m.Attempt(
        **dict(zip(_ATTEMPT, plain, strict=True)),
        usage=_usage(usage) if usage else None,
        timing=_timing(timing) if timing else {},
        stderr_tail=tail,
        registered=registered,
    )


def curve(row: Row) -> tuple[m.Sample, ...]:
    """A row of `attempt.curve`: the samples of its heartbeats, and of an attempt that has ended its
    final figures. A payload may be shorter than a heartbeat, and the last sample is never the
    whole."""
    _, kept, final, ended = row
    samples = _curve(kept) if kept else ()
    if ended is None or not final:
        return samples
    usage = _usage(final)
    if not samples:
        return (m.Sample(at=ended, usage=usage),) if usage.wall_s else ()
    last = samples[-1]
    at = last.at + max(0.001, usage.wall_s - last.usage.wall_s)
    return (*samples, m.Sample(at=at, usage=usage))


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


def traced(row: Row) -> m.TracedAttempt:
    """A row of `attempt.traced_job` or `attempt.traced_worker`."""
    job_id, attempt_nr, worker_id, state, host, leased, ended, code = row
    return m.TracedAttempt(
        job_id=job_id, attempt_nr=attempt_nr, worker_id=worker_id, state=state, host=host,
        leased=leased, ended=ended, code=code,
    )  # fmt: skip


def file(row: Row) -> m.FileRecord:
    """A row of `file.of_job`."""
    name, url, size, adler32, job_id = row
    return m.FileRecord(name=name, url=url, size=size, adler32=adler32, job_id=job_id)


def for_people(detail: m.JobDetail) -> m.JobDetail:
    """All about a job, without what its URLs hold of secrets: what is stored is for pilots."""
    spec = replace(
        detail.spec,
        inputs=tuple(map(_with_shown_url, detail.spec.inputs)),
        outputs=tuple(map(_with_shown_url, detail.spec.outputs)),
    )
    return replace(detail, spec=spec, files=tuple(map(_with_shown_url, detail.files)))


def _with_shown_url(file: F) -> F:
    url = shown(file.url)
    return file if url == file.url else replace(file, url=url)


def worker(
    row: Row, *, heard: float | None = None, room: Room | None = None, jobs: tuple[int, ...] = ()
) -> m.WorkerRow:
    """A row of `worker.alive` or `worker.page`, with what memory knows more recently."""
    (worker_id, site, queue, host, phase, ending, registered, last_heard, stored, total) = row[:10]
    intent, index, batch_id, version, diagnosis, _ = row[10:]
    return m.WorkerRow(
        worker_id=worker_id,
        site=site,
        queue=queue,
        host=host,
        phase=Phase(phase),
        ending=Ending(ending) if ending else None,
        registered=registered or 0.0,
        last_heard=heard or last_heard or 0.0,
        room=room or (_room(stored) if stored else NOWHERE),
        total=_room(total) if total else NOWHERE,
        jobs=jobs,
        intent=intent,
        index=index,
        batch_id=batch_id,
        version=version,
        diagnosis=diagnosis,
    )


def event(row: Row) -> m.Event:
    """A row of `event.after`."""
    seq, at, kind, job_id, worker_id, data = row
    return m.Event(seq=seq, at=at, kind=kind, job_id=job_id, worker_id=worker_id, data=_data(data))
