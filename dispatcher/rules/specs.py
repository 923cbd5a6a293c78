"""The specification of a job: as it is stored, as its pilot gets it, and as it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol import trees
from ailurus.protocol.job import InputFile, JobSpec
from ailurus.protocol.messages import FileRecord
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
    whole = replace(job, inputs=located(job.inputs, made))
    if len(whole.inputs) > trees.MOST_FILES:
        raise Unfit(
            f"its parents left {len(whole.inputs)} files for it: {trees.MOST_FILES} are possible"
        )
    return _encode({**msgspec.to_builtins(whole), **newer} if newer else whole)


def located(
    inputs: Sequence[InputFile], made: Mapping[str, MadeFile | FileRecord]
) -> tuple[InputFile, ...]:
    """Inputs, with where the parents that made them left them: a glob or a directory becomes all
    its files. Raises Unfit."""
    found: list[InputFile] = []
    for file in inputs:
        if file.url:
            found.append(file)
        elif trees.is_many(file.name):
            names = trees.chosen(file.name, made)
            found += [_located(replace(file, name=name), made) for name in names] or [file]
        else:
            found.append(_located(file, made))
    return tuple({file.name: file for file in found}.values())


def _located(file: InputFile, made: Mapping[str, MadeFile | FileRecord]) -> InputFile:
    # An optional output that was not made: the pilot says so.
    if (one := made.get(file.name)) is None:
        return file
    md5 = one.md5 if isinstance(one, MadeFile) else None
    whole = replace(file, url=one.url, size=one.size, adler32=one.adler32 or None, md5=md5)
    try:
        return msgspec.convert(msgspec.to_builtins(whole), InputFile)
    except msgspec.ValidationError as error:
        raise Unfit(f"input {file.name}, as a job before it left it: {error}") from None
