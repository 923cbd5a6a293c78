"""The specification of a job: as it is stored, as its pilot gets it, and as it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol.job import InputFile, JobSpec
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import records
from dispatcher.rules.records import BodyRecord, MadeFile

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobSpec).decode
_FIELDS = frozenset(JobSpec.__struct_fields__)


class Unfit(Rejected):
    """A job that cannot be handed out as it is stored, and why: that job's fault, and no
    other's."""

    def __init__(self, why: str) -> None:
        super().__init__(409, why, remedy="submit the job anew")


def body(tx: Tx, job_id: int) -> bytes:
    """The job's specification as its pilot gets it, completed with where its parents left its
    inputs. Raises Unfit for one that no pilot could read, whatever is wrong with it."""
    stored = records.find_body(tx, job_id)
    made = records.files_of_parents(tx, job_id) if stored is not None and stored.wants else {}
    try:
        return _completed(stored, made)
    except Unfit:
        raise
    except Exception as fault:
        raise Unfit(f"its specification cannot be read: {fault}") from fault


def specification(tx: Tx, job_id: int, name: str) -> JobSpec:
    """A job's specification, to be shown: as far as it can be read, were it only its name."""
    with suppress(Unfit):
        return decoded(body(tx, job_id))[0]
    stored = records.find_body(tx, job_id)
    with suppress(msgspec.MsgspecError, TypeError, ValueError):
        return _decode(bytes(stored.spec) if stored is not None else b"")
    return JobSpec(name=name)


def decoded(spec: bytes) -> tuple[JobSpec, dict[str, Any]]:
    """A stored specification, and the fields of it that only a newer version knows. Raises
    MsgspecError for one that no version could read."""
    try:
        return _decode(spec), {}
    except msgspec.ValidationError:
        fields = msgspec.json.decode(spec, type=dict[str, Any])
        newer = {name: fields.pop(name) for name in fields.keys() - _FIELDS}
        if not newer:
            raise
        return msgspec.convert(fields, JobSpec), newer


def _completed(stored: BodyRecord | None, made: Mapping[str, MadeFile]) -> bytes:
    """A stored specification with all its URLs. It is decoded in any case: nothing is handed out
    that cannot be. What only a newer version can read is left to its pilots: while versions run
    side by side they are there."""
    if stored is None:
        raise Unfit("its specification is not in the store")
    spec = bytes(stored.spec)
    job, newer = decoded(spec)
    if not stored.wants:
        return spec
    whole = replace(job, inputs=tuple(_located(file, made) for file in job.inputs))
    return _encode({**msgspec.to_builtins(whole), **newer} if newer else whole)


def _located(file: InputFile, made: Mapping[str, MadeFile]) -> InputFile:
    """An input, with where the parent that made it left it."""
    # An optional output that was not made: the pilot says so.
    if file.url or file.name not in made:
        return file
    try:
        return msgspec.convert(msgspec.structs.asdict(made[file.name]), InputFile)
    except msgspec.ValidationError as error:
        raise Unfit(f"input {file.name}, as a job before it left it: {error}") from None
