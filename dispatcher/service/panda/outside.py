"""Data outside the reach of our transform: what a PanDA pilot moves by Rucio for an attempt."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ailurus.protocol.did import SCHEME, Did
from ailurus.protocol.job import InputFile, JobSpec
from ailurus.protocol.panda import PilotInput
from ailurus.protocol.url import Url
from dispatcher.ports import Tx
from dispatcher.rules import worker_records
from dispatcher.rules.queue import Leased
from dispatcher.service import Service

_KIND = "storage of"
"""The kind of record in the store; its name is `JOB.ATTEMPT`."""


class Outside(Struct, frozen=True):
    """Where the outputs of an attempt go, as its queue's data said when it was handed out."""

    rse: str = ""
    """The storage of Rucio, for those with a scope; blank: its pilot does not use Rucio."""
    place: str = ""
    """The directory of those with neither scope nor a place of their own; blank: the pilot's."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Outside).decode


def keep(tx: Tx, leased: Sequence[Leased], where: Outside, *, now: float) -> None:
    """Write down where the outputs of attempts go: a pilot does not say it."""
    data = _encode(where).decode()
    for job in leased:
        name = f"{job.attempt.job_id}.{job.attempt.attempt_nr}"
        tx.run("fact.put", kind=_KIND, owner="", name=name, at=now, data=data)


def of(tx: Tx, job_id: int, attempt_nr: int) -> Outside:
    """What was written down of an attempt."""
    found = worker_records.find_fact(tx, _KIND, "", f"{job_id}.{attempt_nr}")
    return _decode(found.data) if found else Outside()


def forget(tx: Tx, job_id: int, attempt_nr: int) -> None:
    """Once the attempt has ended."""
    tx.run("fact.drop", kind=_KIND, owner="", name=f"{job_id}.{attempt_nr}")


async def inputs(service: Service, spec: JobSpec) -> tuple[PilotInput, ...]:
    """The files of Rucio that a pilot stages in for a job. Raises CatalogueUnavailable."""
    found: list[PilotInput] = []
    for file in spec.inputs:
        if file.url.startswith(f"{SCHEME}:"):
            found += await _files_of(service, file, Did.of_url(Url.parse(file.url)))
    return tuple(found)


async def _files_of(service: Service, file: InputFile, did: Did) -> list[PilotInput]:
    contents = await service.known_data.of(str(did))
    # Nothing is known of it: the pilot finds out.
    if contents is None or contents.kind == "file":
        known = contents.files[0] if contents is not None and contents.files else None
        return [
            PilotInput(
                of=file.name,
                scope=did.scope,
                lfn=did.name,
                size=known.size if known else file.size,
                adler32=(known.adler32 if known else "") or file.adler32 or "",
                guid=known.guid if known else "",
            )
        ]
    return [
        PilotInput(
            of=file.name,
            scope=one.name.partition(":")[0],
            lfn=one.name.partition(":")[2],
            size=one.size,
            adler32=one.adler32,
            guid=one.guid,
            dataset=str(did),
        )
        for one in contents.files
    ]
