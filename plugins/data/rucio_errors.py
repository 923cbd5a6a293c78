"""Errors of Rucio's client, by their types, as those of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from ailurus.protocol.did import Did
from ailurus.protocol.errors import Code
from pilot.ports import JobError, NotMoved
from plugins.rucio_client import RseProtocols

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


def missing(news: NotMoved) -> NotMoved:
    """Of a file that is not where the catalogue has it, as PanDA's Pilot 3 tells it."""
    if news.code != Code.NO_SUCH_FILE:
        return news
    remedy = "declare that replica bad in Rucio, which recovers it from another one"
    return replace(news, code=Code.MISSING_INPUT, remedy=remedy)


def nowhere(did: Did, protocols: RseProtocols, *, known: bool) -> JobError:
    """Of a file that the catalogue does not know, or has nowhere that the site could read."""
    if not known:
        return JobError(
            Code.NO_SUCH_FILE,
            f"Rucio knows no file {did}",
            remedy="is scope and name right? `rucio did show`",
        )
    schemes = ", ".join(sorted({*protocols.own, *protocols.other}))
    return JobError(
        Code.NO_REPLICAS,
        f"{did} has no replica that this site could read ({schemes})",
        remedy="ask for one by a rule, or declare the lost one so that Rucio recovers it",
    )
