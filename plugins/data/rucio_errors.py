"""Errors of Rucio's client, by their types, as those of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ailurus.protocol.errors import Code
from pilot.ports import JobError

_DENIED = (
    "AccessDenied",
    "CannotAuthenticate",
    "CannotAuthorize",
    "NoAuthInformation",
    "MissingClientParameter",
)
_CONFIGURATION = ("ConfigLoadingError", "ConfigNotFound")
_MISSING = ("DataIdentifierNotFound", "ReplicaNotFound", "ScopeNotFound")
_SITES = ("RSENotFound", "RSEProtocolNotSupported", "RSEOperationNotSupported")


@contextmanager
def rucio_errors_on(
    what: str, *, code: Code = Code.STAGE_IN_FAILED, missing_is_fine: bool = False
) -> Iterator[None]:
    """Turns what Rucio raises within, when it is asked about `what`, into a JobError, with `code`
    where its type has none of its own. Leaving it raises JobError."""
    import requests
    from rucio.common import exception

    try:
        yield
    except (
        requests.RequestException,
        exception.ServerConnectionException,
        exception.ServiceUnavailable,
    ) as error:
        raise JobError(
            Code.RUCIO_UNAVAILABLE,
            f"{what}: Rucio cannot be reached ({type(error).__name__})",
            remedy="look at its server and the way to it",
            transient=True,
        ) from None
    except exception.RucioException as error:
        kind = type(error).__name__
        if missing_is_fine and kind in _MISSING:
            return
        said = f"{what}: {kind}: {error}".replace("\n", " ")[:400]
        if kind in _MISSING:
            raise JobError(Code.NO_SUCH_FILE, said, remedy="is scope and name right?") from None
        if kind in _DENIED:
            raise JobError(
                Code.RUCIO_UNAVAILABLE,
                said,
                remedy="look at the account of the pilot in `storage.rucio`",
                transient=False,
            ) from None
        if kind in _CONFIGURATION:
            raise JobError(
                Code.RUCIO_UNAVAILABLE,
                " ".join(said.split()),
                remedy="look at the file that `storage.rucio.config` names",
                transient=False,
            ) from None
        remedy = "name an RSE of Rucio: storage.rse" if kind in _SITES else "it may pass"
        raise JobError(code, said, remedy=remedy, transient=kind not in _SITES) from None
