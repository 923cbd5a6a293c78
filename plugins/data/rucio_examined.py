"""Whether Rucio knows the site's account, and takes files into the site's storage."""

from __future__ import annotations

from typing import Any

from ailurus.protocol.errors import Code
from pilot.ports import JobError
from plugins.data.rucio_errors import rucio_errors_on

_OPEN = "ask Rucio's administrators to open it"
_NEEDED = (
    ("availability_read", "is closed for reading in Rucio", _OPEN),
    ("availability_write", "is closed for writing in Rucio", _OPEN),
    ("deterministic", "is not deterministic: where a new file goes, Rucio does not say",
     "name another in storage.rse"),
)  # fmt: skip
"""What a site's storage has, what is wrong without it, and what would help."""


def examined(client: Any, rse: str) -> list[str]:
    """What Rucio says of the account and of the storage `rse`, if that is not empty. Raises
    JobError for what would stop a site's jobs."""
    with rucio_errors_on("the account"):
        account = client.whoami()
    said = [f"Rucio at {client.host} knows the account {account['account']}"]
    if account.get("status", "ACTIVE") != "ACTIVE":
        raise JobError(
            Code.RUCIO_UNAVAILABLE,
            f"the account {account['account']} is {str(account['status']).lower()} in Rucio",
            remedy="name another in `storage.rucio`, or ask Rucio's administrators",
            transient=False,
        )
    if rse:
        said.append(_storage(client, rse))
    return said


def _storage(client: Any, rse: str) -> str:
    with rucio_errors_on(f"storage {rse}", code=Code.STAGE_OUT_FAILED):
        found = client.get_rse(rse)
    for key, what, remedy in _NEEDED:
        if not found.get(key, True):
            raise JobError(
                Code.STAGE_OUT_FAILED, f"storage {rse} {what}", remedy=remedy, transient=False
            )
    schemes = sorted({str(one.get("scheme")) for one in found.get("protocols", ())})
    return f"storage {rse} can be read and written, by {', '.join(schemes) or 'no protocol'}"
