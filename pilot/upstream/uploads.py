"""Small files that users sent with their jobs: fetched from the dispatcher, and kept by their
digest for as long as the pilot lives.

What is kept is in the pilot's own directory and never in a job's, which gets a copy. Where nothing
keeps payloads from that directory one could change it all the same: so each copy is compared with
the digest, and what has been changed is fetched again.
"""

from __future__ import annotations

import os
import threading
import zlib
from contextlib import suppress
from hashlib import md5 as new_md5
from hashlib import sha256
from pathlib import Path

from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.uploads import MOST_FILE_BYTES, Upload, upload_of
from ailurus.protocol.url import Url
from ailurus.wire.client import Refused
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target
from pilot.clock import SYSTEM, Clock
from pilot.ports import Check, Copied, JobError
from pilot.upstream.link import Link, backoff

PATIENCE_S = 600.0
"""How long an attempt waits for a dispatcher that does not answer."""
MOST_KEPT_BYTES = 256 << 20
"""Of all files that are kept; those that were not used for longest make room."""
TURN_S = 0.2
"""How often a job that waits for a file which another fetches looks whether it is to stop."""


class Uploads:
    """Such files, as a `pilot.ports.Transfer` of jobs. Called from their threads."""

    def __init__(self, link: Link, directory: Path, clock: Clock = SYSTEM) -> None:
        """`directory` is made when a job first needs it."""
        self._link, self._directory, self._clock = link, directory, clock
        self._lock = threading.Lock()
        # By digest: one job fetches a file, and others that need it wait.
        self._turns: dict[str, threading.Lock] = {}
        # Bytes, by digest, in the order of their last use.
        self._kept: dict[str, int] = {}

    def allowed(self, url: Url) -> None:
        """See `pilot.ports.Transfer`: what came with a job every site takes."""

    def of(self, attempt: Attempt) -> OfAttempt:
        """The same for the files of an attempt, which alone may have them."""
        return OfAttempt(self, attempt)

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        raise self._only_of_jobs(url)

    def put(self, source: int, url: Url, check: Check) -> Copied:
        raise self._only_of_jobs(url)

    def delete(self, url: Url) -> None:
        raise self._only_of_jobs(url)

    def _only_of_jobs(self, url: Url) -> JobError:
        return JobError(Code.STORAGE_FORBIDDEN, f"{url} is an input that came with a job")

    def contents(self, attempt: Attempt, upload: Upload, check: Check) -> bytes:
        """What is in a file. Raises JobError."""
        turn = self._turn(upload.digest)
        while not turn.acquire(timeout=TURN_S):
            check()
        try:
            path = self._directory / upload.digest
            contents = _read(path)
            if contents is None or sha256(contents).hexdigest() != upload.digest:
                contents = self._fetched(attempt, upload, check)
                self._keep(path, contents)
            with self._lock:
                if (size := self._kept.pop(upload.digest, None)) is not None:
                    self._kept[upload.digest] = size
            return contents
        finally:
            turn.release()

    def _turn(self, digest: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(digest, threading.Lock())

    def _fetched(self, attempt: Attempt, upload: Upload, check: Check) -> bytes:
        pieces: list[bytes] = []
        have = 0
        while True:
            answer = self._piece(attempt, upload, have, check)
            pieces.append(answer.piece)
            have += len(answer.piece)
            if have >= answer.size or not answer.piece or have > MOST_FILE_BYTES:
                break
        contents = b"".join(pieces)
        if (found := sha256(contents).hexdigest()) != upload.digest:
            raise JobError(
                Code.STAGE_IN_FAILED,
                f"an uploaded file came with the SHA-256 {found}, and is {upload.digest}",
                remedy="submit the job file again",
                transient=True,
            )
        return contents

    def _piece(self, attempt: Attempt, upload: Upload, have: int, check: Check) -> m.UploadPiece:
        request = m.UploadRequest(
            job_id=attempt.id[0], attempt_nr=attempt.id[1], digest=upload.digest, first=have
        )
        deadline = self._clock.monotonic() + PATIENCE_S
        for pause_s in backoff():
            check()
            try:
                return self._link.call("job_upload", request, answer=m.UploadPiece)
            except Refused as error:
                raise JobError(
                    Code.STAGE_IN_FAILED,
                    f"the dispatcher does not give an uploaded file: {error.message}",
                    remedy=error.remedy or "submit the job file again",
                    transient=False,
                ) from None
            except AilurusError as error:
                if self._clock.monotonic() + pause_s > deadline:
                    raise JobError(
                        Code.SERVICE_UNAVAILABLE, f"cannot fetch an uploaded file: {error.message}"
                    ) from None
            attempt.pause(pause_s)
        raise AssertionError("backoff() never ends")

    def _keep(self, path: Path, contents: bytes) -> None:
        """Keep a file for the jobs to come, which fetch it again if that fails."""
        with self._lock:
            while self._kept and sum(self._kept.values()) + len(contents) > MOST_KEPT_BYTES:
                oldest = next(iter(self._kept))
                del self._kept[oldest]
                with suppress(OSError):
                    (self._directory / oldest).unlink()
            self._kept[path.name] = len(contents)
        part = path.with_suffix(".part")
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            part.unlink(missing_ok=True)
            into = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
            with os.fdopen(into, "wb") as file:
                file.write(contents)
            part.rename(path)
        except OSError:
            with suppress(OSError):
                part.unlink()


class OfAttempt:
    """Uploaded files of one attempt."""

    def __init__(self, uploads: Uploads, attempt: Attempt) -> None:
        self._uploads, self._attempt = uploads, attempt

    def allowed(self, url: Url) -> None:
        self._uploads.allowed(url)

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        """See `pilot.ports.Transfer`."""
        upload = upload_of(url.text)
        contents = self._uploads.contents(self._attempt, upload, check)
        check()
        with OSErrorsOn(Target.NODE, f"cannot write the copy of {url}"):
            left = memoryview(contents)
            while left:
                left = left[os.write(into, left) :]
            if upload.program:
                os.fchmod(into, 0o700)
        return Copied(
            size=len(contents),
            adler32=f"{zlib.adler32(contents):08x}",
            md5=new_md5(contents, usedforsecurity=False).hexdigest() if md5 else None,
        )

    def put(self, source: int, url: Url, check: Check) -> Copied:
        return self._uploads.put(source, url, check)

    def delete(self, url: Url) -> None:
        self._uploads.delete(url)


def _read(path: Path) -> bytes | None:
    """What is kept there; None: nothing that can be read."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(source, "rb") as file:
            return file.read(MOST_FILE_BYTES + 1)
    except OSError:
        return None
