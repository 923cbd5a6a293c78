"""Exit codes: sysexits.h's words. docs/edge.md lists them."""

from __future__ import annotations

from ailurus.protocol.errors import AilurusError

USAGE = 64
DATA = 65
UNAVAILABLE = 69
SOFTWARE = 70
CANNOT_CREATE = 73
TRY_AGAIN = 75
NO_PERMISSION = 77
CONFIGURATION = 78


class NotFound(AilurusError):
    """What was asked for is not known here."""


class CannotCreate(AilurusError):
    """A file that an option names cannot be written."""


def code_of(error: AilurusError) -> int:
    """The exit code that tells a script what went wrong."""
    from ailurus.wire.client import Refused, WireError
    from harvester_edge.lease import SiteTaken

    match error:
        case SiteTaken():
            return TRY_AGAIN
        case NotFound():
            return DATA
        case CannotCreate():
            return CANNOT_CREATE
        case Refused() if error.status in (401, 403):
            return NO_PERMISSION
        case WireError():
            return UNAVAILABLE
    return CONFIGURATION
