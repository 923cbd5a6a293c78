"""Archives that users' panda-clients upload: files that travel with jobs, found by their names.

Nothing here opens one: the pilot unpacks it, in the job's directory and within the job's disk.
"""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec
from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.uploads import MOST_FILE_BYTES, PIECE_BYTES, Upload
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import uploads, worker_records
from dispatcher.rules.worker_records import SANDBOX
from dispatcher.service import Service

MOST_NAMES = 1000
"""Of one user in a day."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_encode = msgspec.json.Encoder().encode


class Archive(Struct, frozen=True):
    """What a name stands for."""

    digest: str
    size: int

    @property
    def url(self) -> str:
        return Upload(self.digest).url


_decode = msgspec.json.Decoder(Archive).decode


async def put(service: Service, caller: Caller, name: str, data: bytes) -> None:
    """Keep a file of the caller under a name. Raises Rejected."""
    if not _NAME.fullmatch(name):
        raise Rejected(422, "the file has no name that could be kept", field="file")
    if not 0 < len(data) <= MOST_FILE_BYTES:
        raise Rejected(
            413, f"{len(data)} bytes: a file has 1 to {MOST_FILE_BYTES:,} bytes", field="file"
        )
    kept = Archive(sha256(data).hexdigest(), len(data))
    have, end = 0, len(data)
    while have < end:
        piece = data[have : have + PIECE_BYTES]
        ask = m.AddUpload(digest=kept.digest, size=end, first=have, piece=piece)
        after = (await service.uploads.add_upload(ask, caller)).have
        # It may be here from before, or another request of the same user brings it.
        if after <= have:
            raise Rejected(409, "the same file is being uploaded", remedy="submit again")
        have = after
    owner, now = caller.subject, service.state.now()

    def note(tx: Tx) -> None:
        since = now - uploads.UNUSED_S
        names = tx.all("fact.names", kind=SANDBOX, owner=owner, since=since)
        if len(names) >= MOST_NAMES:
            raise Rejected(
                429, f"you have uploaded {MOST_NAMES} files in a day", remedy="wait some hours"
            )
        said = _encode(kept).decode()
        tx.run("fact.put", kind=SANDBOX, owner=owner, name=name, at=now, data=said)

    await service.store.write(note)


async def find(service: Service, caller: Caller, name: str) -> Archive | None:
    """A file of the caller by its name. Others' do not exist for it."""
    found = await service.store.read(
        lambda tx: worker_records.find_fact(tx, SANDBOX, caller.subject, name[:200])
    )
    return None if found is None else _decode(found.data)
