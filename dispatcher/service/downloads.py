"""Files that users may have from here: what they uploaded for a job, and all that is kept of its
output."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ailurus.protocol import api
from ailurus.protocol.uploads import Upload, is_upload, upload_of
from dispatcher.auth.caller import Caller
from dispatcher.ports import Handed, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import specs, uploads
from dispatcher.service.state import State
from dispatcher.service.users import Users


class Downloads:
    """The part of the service that hands out files."""

    def __init__(self, state: State, users: Users) -> None:
        self._state, self._users = state, users

    async def log_file(self, ask: api.LogFileQuery, caller: Caller, job_id: int) -> Handed:
        """All that is kept of an attempt's output, with a line where something is missing. Raises
        Rejected as `log` does."""
        query = api.LogQuery(stream=ask.stream, attempt_nr=ask.attempt_nr, item=ask.item)
        first = await self._users.log(query, caller, job_id)
        # One attempt, whichever begins meanwhile.
        attempt_nr = first.attempt_nr or ask.attempt_nr

        async def pieces() -> AsyncGenerator[bytes]:
            chunk = first
            while True:
                if chunk.text and chunk.skipped:
                    yield _missing(chunk.skipped)
                if not chunk.text:
                    break
                yield chunk.text.encode()
                chunk = await self._users.log(
                    api.LogQuery(
                        stream=ask.stream, attempt_nr=attempt_nr, item=ask.item, offset=chunk.end
                    ),
                    caller,
                    job_id,
                )
            if chunk.final and chunk.size > chunk.end:
                yield _missing(chunk.size - chunk.end)

        named = f"{job_id}" if ask.item is None else f"{job_id}.{ask.item}"
        return Handed(f"{named}.{attempt_nr or 0}.{ask.stream}.txt", None, pieces())

    async def file(self, ask: api.FileQuery, caller: Caller, job_id: int) -> Handed:
        """An input that the job's user uploaded. Raises Rejected for one that is not here."""
        job = await self._state.job_of(job_id, caller.owns)
        owner = job.row.user

        def find(tx: Tx) -> tuple[Upload, int]:
            spec = specs.specification(tx, job_id, job.row.name)
            for one in spec.inputs:
                if one.name == ask.name and is_upload(one.url):
                    return upload_of(one.url), one.size or 0
            raise Rejected(
                404,
                f"job {job_id} has no uploaded input {ask.name!r}",
                field="name",
                remedy="see `dispatcher show`; what lies in storage is there, not here",
            )

        upload, size = await self._state.store.read(find)

        def piece(tx: Tx, at: int) -> bytes:
            kept = uploads.find(tx, owner, upload.digest, size)
            if kept is None or kept.have != size:
                raise Rejected(
                    410,
                    f"{ask.name} is no longer kept",
                    field="name",
                    remedy="take it from where it was submitted",
                )
            return uploads.piece_at(tx, kept.upload_id, at) if at < size else b""

        # A refusal comes before the answer begins.
        first = await self._state.store.read(lambda tx: piece(tx, 0))

        async def pieces() -> AsyncGenerator[bytes]:
            data, at = first, 0
            while data:
                yield data
                at += len(data)
                data = await self._state.store.read(lambda tx, at=at: piece(tx, at))  # type: ignore[misc]

        return Handed(ask.name, size, pieces())


def _missing(count: int) -> bytes:
    return f"\n[{count:,} bytes are not kept here]\n".encode()
