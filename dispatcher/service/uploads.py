"""Small files that travel with jobs: from the users who upload them to the workers that run the
jobs."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.states import OPEN_ATTEMPT
from ailurus.protocol.uploads import named
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import records, specs, uploads
from dispatcher.service.state import State


class Uploads:
    """The part of the service that keeps files for jobs."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def add_upload(self, ask: m.AddUpload, caller: Caller) -> m.UploadAdded:
        """Store a piece of a file of the caller, once. Raises Rejected for a file that has another
        digest than was said."""
        uploads.check(ask)
        store, owner = self._state.store, caller.subject
        if ask.first + len(ask.piece) == ask.size:
            kept = await store.read(lambda tx: uploads.find(tx, owner, ask.digest, ask.size))
            have = kept.have if kept is not None else 0
            if have == ask.first and (kept is None or have < ask.size):
                await self._check(ask, owner, kept)
        have = await store.write(lambda tx: uploads.add(tx, owner, ask, now=self._state.now()))
        return m.UploadAdded(have=have)

    async def _check(self, ask: m.AddUpload, owner: str, kept: uploads.Kept | None) -> None:
        """Compare a file, now that its last piece has come. Raises Rejected, and forgets it."""
        store, upload_id = self._state.store, kept.upload_id if kept is not None else 0
        found = await store.read(lambda tx: uploads.digest_of(tx, upload_id, ask.first, ask.piece))
        if found == ask.digest:
            return

        def forget(tx: Tx) -> bool:
            left = uploads.find(tx, owner, ask.digest, ask.size)
            if left is None or left.have == ask.size:
                return False
            uploads.cut(tx, left.upload_id, left.have)
            return True

        while await store.write(forget):
            pass
        raise Rejected(
            422,
            f"what has come has the SHA-256 {found}",
            field="digest",
            remedy="send the whole file again, when nobody writes to it any more",
        )

    async def job_upload(self, ask: m.UploadRequest, caller: Caller) -> m.UploadPiece:
        """A piece of a file that a job names, for the worker to which it is leased. Raises Rejected
        for another worker's attempt, and for a file that it does not name."""

        def gather(tx: Tx) -> m.UploadPiece:
            job = records.find_job(tx, ask.job_id)
            attempt = records.find_attempt(tx, ask.job_id, ask.attempt_nr)
            own = attempt is not None and attempt.worker_id == caller.worker_id
            if job is None or attempt is None or not own or attempt.state not in OPEN_ATTEMPT:
                raise Rejected(
                    403, "this attempt is not leased to the caller", field="job_id, attempt_nr"
                )
            spec = specs.specification(tx, ask.job_id, job.name)
            sizes = {one.digest: size for _, _, one, size in named([spec])}
            if ask.digest not in sizes:
                raise Rejected(403, "this job names no such file", field="digest")
            size = sizes[ask.digest]
            kept = uploads.find(tx, job.owner, ask.digest, size)
            if kept is None or kept.have != size:
                raise Rejected(
                    422,
                    "this uploaded file is no longer kept",
                    field="digest",
                    remedy="its user must submit the job file again",
                )
            piece = uploads.piece_at(tx, kept.upload_id, ask.first) if ask.first < size else b""
            return m.UploadPiece(size=size, piece=piece, giver=self._state.giver)

        return await self._state.store.read(gather)
