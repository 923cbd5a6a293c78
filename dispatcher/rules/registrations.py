"""Outputs that a catalogue of data is to know: written down with the report that makes them count,
told to the catalogue afterwards, as often as it takes.

A loser's report writes nothing here, so nothing of a loser is ever registered.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol import trees
from ailurus.protocol.did import SCHEME, Did, physical, rse_of, store_mark
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec, OutputFile
from ailurus.protocol.states import RegistrationState
from ailurus.protocol.url import Url
from dispatcher.events import DatasetClosed, NotRegistered, Registered, Registering
from dispatcher.ports import Fault, NewFile, Tx
from dispatcher.rules import records, specs
from dispatcher.rules.records import DueRecord, JobRecord

log = Log("queue")
LONGEST_PAUSE_S = 600.0
# Data sets that are looked at in one go, and files of one call to the catalogue.
DATASETS, TOGETHER = 100, 200
_LONGEST_REASON = 1000
_PREFIX = f"{SCHEME}:"


class Due(Struct, frozen=True):
    """An output that is to be registered, and the same as the catalogue is told."""

    record: DueRecord
    file: NewFile


def note(tx: Tx, job: JobRecord, report: m.Report, *, registers: bool, now: float) -> None:
    """Write down which files of an accepted report the catalogue is to know, also those that their
    pilot left elsewhere. `registers`: whether there is a catalogue; without one, only a job that
    began when there was one can have such files."""
    registers |= any(file.url.startswith(_PREFIX) for file in report.files)
    if not report.finished or not registers:
        return
    outputs = _outputs(tx, job)
    mark = store_mark(str(records.value(tx.one("about.get", name="name"), "")))
    found = ((file, trees.owner(outputs, file.name)) for file in report.files)
    rows = [
        _row(job, output, report.attempt_nr, file, mark) | {"due": now}
        for file, output in found
        if output is not None and output.scope
    ]
    tx.many("registration.add", rows)
    if rows:
        tx.tell(Registering(files=len(rows)), at=now, job_id=job.job_id)


def _outputs(tx: Tx, job: JobRecord) -> tuple[OutputFile, ...]:
    stored = records.find_body(tx, job.job_id)
    spec: JobSpec | None = None
    if stored is not None:
        try:
            spec = specs.decoded(bytes(stored.spec))[0]
        except msgspec.MsgspecError as error:
            # Its outputs stay where they are, and the catalogue never learns of them.
            log.warning("outputs_not_registered", job_id=job.job_id, what=str(error))
    return () if spec is None else spec.outputs


def _row(
    job: JobRecord, output: OutputFile, attempt_nr: int, file: m.DoneFile, mark: str
) -> dict[str, object]:
    named = output.scope, job.job_id, attempt_nr, file.name
    did = physical(*named, mark)
    rse, reason = "", ""
    try:
        url = Url.parse(file.url)
        rse = rse_of(url)
        # A pilot of an older version, or one that took the job from an older dispatcher.
        if Did.of_url(url) == physical(*named):
            did = physical(*named)
        if Did.of_url(url) != did or not rse:
            reason = f"its pilot left it at {url}, and not as {did} at a storage of Rucio"
    except AilurusError as error:
        reason = error.message
    return {
        "job_id": job.job_id,
        "name": file.name,
        "owner": job.owner,
        "scope": did.scope,
        "lfn": did.name,
        "rse": rse,
        "size": file.size,
        "adler32": file.adler32,
        "dataset": output.dataset,
        "lifetime_s": output.lifetime_s,
        "state": RegistrationState.REFUSED if reason else RegistrationState.DUE,
        "reason": reason[:_LONGEST_REASON],
        "remedy": "submit the job anew, to a site with a storage in Rucio" if reason else "",
    }


def due(tx: Tx, giver: str, now: float, most: int = TOGETHER) -> list[Due]:
    """At most so many outputs that are to be registered now. `giver`: the name of this store, from
    which each file gets an identifier that is the same whenever it is made."""
    found = records.due_registrations(tx, now, most)
    return [Due(one, _file(nr, one, giver)) for nr, one in enumerate(found)]


def _file(key: int, one: DueRecord, giver: str) -> NewFile:
    guid = uuid.uuid5(uuid.NAMESPACE_URL, f"ailurus:{giver}:{one.scope}:{one.lfn}")
    return NewFile(
        key=key,
        scope=one.scope,
        name=one.lfn,
        rse=one.rse,
        size=one.size,
        adler32=one.adler32,
        guid=guid.hex,
        dataset=one.dataset,
        lifetime_s=one.lifetime_s,
    )


def settle(tx: Tx, tried: Sequence[Due], faults: Mapping[int, Fault], *, now: float) -> None:
    """Write down what the catalogue made of some outputs; faults by the files' keys."""
    for one in tried:
        fault = faults.get(one.file.key)
        state = _state_after(fault)
        pause_s = min(LONGEST_PAUSE_S, 5.0 * 2 ** min(one.record.tries, 10))
        tx.run(
            "registration.settle",
            job_id=one.record.job_id,
            name=one.record.name,
            state=state,
            due=now + pause_s if state is RegistrationState.DUE else now,
            reason=fault.reason[:_LONGEST_REASON] if fault is not None else "",
            remedy=fault.remedy[:_LONGEST_REASON] if fault is not None else "",
        )
        if state is not RegistrationState.DUE:
            settled = Registered if fault is None else NotRegistered
            event = settled(
                file=one.record.name,
                did=f"{one.record.scope}:{one.record.lfn}",
                reason=fault.reason if fault is not None else "",
            )
            tx.tell(event, at=now, job_id=one.record.job_id)


def _state_after(fault: Fault | None) -> RegistrationState:
    if fault is None:
        return RegistrationState.DONE
    return RegistrationState.DUE if fault.transient else RegistrationState.REFUSED


def again(tx: Tx, job_id: int, *, now: float) -> int:
    """Have a job's refused outputs tried again. How many."""
    found = tx.all("registration.again", job_id=job_id, now=now)
    if found:
        tx.tell(Registering(files=len(found)), at=now, job_id=job_id)
    return len(found)


class Complete(Struct, frozen=True):
    """A data set that can be closed, and the submissions that were looked at for that, by their
    first jobs."""

    dataset: str
    uses: tuple[int, ...]


def complete(tx: Tx, after: str) -> tuple[list[Complete], str]:
    """Those of the next data sets to which nothing more comes, and the last that was looked at; a
    blank one after the end."""
    names = [name for (name,) in tx.all("dataset_use.open", after=after, most=DATASETS)]
    found = []
    for name in names:
        if tx.one("dataset_use.missing", dataset=name) is not None:
            continue
        spans: dict[int, int] = dict(tx.all("dataset_use.of", dataset=name))
        if all(
            tx.one("dataset_use.writer", first=first, last=last) is None
            for first, last in spans.items()
        ):
            found.append(Complete(name, tuple(spans)))
    *_, last = names or [""]
    return found, last if len(names) == DATASETS else ""


def close(tx: Tx, closed: Sequence[Complete], *, now: float) -> None:
    """Write down that data sets were closed."""
    for one in closed:
        tx.many("dataset_use.close", ({"dataset": one.dataset, "first": n} for n in one.uses))
        tx.tell(DatasetClosed(dataset=one.dataset), at=now)


def numbers(tx: Tx) -> tuple[int, int]:
    """How many outputs are due, and how many were refused."""
    waiting = records.value(tx.one("registration.number_due"), 0)
    return waiting, records.value(tx.one("registration.number_refused"), 0)
