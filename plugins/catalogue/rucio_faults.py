"""Errors of Rucio: what they mean to whoever asked, and what helps."""

from __future__ import annotations

from dispatcher.ports import Fault

REMEDIES = {
    "AccessDenied": "let the account of the dispatcher register there: attribute `admin`, or the scope",
    "CannotAuthenticate": "look at `config` and `account` in the catalogue's options",
    "InsufficientAccountLimit": "give the account more quota at that RSE: `rucio account limit add`",
    "RSENotFound": "name an RSE of Rucio in the site file: `storage.rse`",
    "UnsupportedOperation": "name a data set, or one that is not there yet",
    "ScopeNotFound": "let an administrator of Rucio add the scope",
}
"""What helps, by the type of Rucio's error."""
# Whatever was asked, it may go well later.
_LATER = (
    "DatabaseException",
    "ResourceTemporaryUnavailable",
    "RSEWriteBlocked",
    "RSEBlacklisted",
    "ServiceUnavailable",
    "RequestNotFound",
)
AWAY = ("CannotAuthenticate", "CannotAuthorize", "ServerConnectionException", "NoAuthInformation")


class RucioRefused(Exception):
    """An error of Rucio's, by its type."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.kind = type(error).__name__
        self.reason = f"{self.kind}: {error}".replace("\n", " ")[:500]
        self.remedy = REMEDIES.get(self.kind, "")
        # Errors of the server itself come without a type of their own, those of the client with one
        # that is not Rucio's.
        ours = isinstance(error, LookupError | TypeError | ValueError | AttributeError)
        self.transient = self.kind in _LATER or self.kind == "RucioException" or ours

    def fault(self, key: int = 0) -> Fault:
        return Fault(key=key, reason=self.reason, remedy=self.remedy, transient=self.transient)
