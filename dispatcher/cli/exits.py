"""How commands tell errors: exit codes, which docs/commands.md lists (sysexits.h's words, and one
of our own), and lines on stderr."""

from __future__ import annotations

import json

from ailurus.output import clean
from ailurus.protocol.errors import AilurusError

OK = 0
NEVER = 2  # the job can never run as things are: no site offers what it asks for
USAGE = 64
DATA = 65  # what was asked is wrong: a job file, a field
NO_INPUT = 66  # no such file, no such job
UNAVAILABLE = 69  # no dispatcher answers
SOFTWARE = 70  # a bug
CANNOT_CREATE = 73
TRY_AGAIN = 75  # --timeout passed
PROTOCOL = 76  # what answers is no dispatcher
NO_PERMISSION = 77
CONFIGURATION = 78  # no token, no store, no keys

_BY_STATUS = {401: NO_PERMISSION, 403: NO_PERMISSION, 404: NO_INPUT, 409: TRY_AGAIN, 410: NO_INPUT}


class CommandError(AilurusError):
    """An error of a command that knows its exit code. `further`: others of the same file."""

    def __init__(self, code: int, message: str, *, remedy: str = "", field: str = "") -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.code = code
        self.further: list[CommandError] = []


def code_of(error: AilurusError) -> int:
    """The exit code that tells a script what went wrong."""
    from ailurus.wire.client import Nonsense, Refused, Unreachable

    match error:
        case CommandError():
            return error.code
        case Refused():
            return _BY_STATUS.get(error.status, DATA if error.status < 500 else UNAVAILABLE)
        case Unreachable():
            return UNAVAILABLE
        case Nonsense():
            return PROTOCOL
    return CONFIGURATION


def line_of(error: AilurusError, *, as_json: bool) -> str:
    """The line that tells an error to people, or to programs."""
    if not as_json:
        return f"dispatcher: {clean(str(error))}\n"
    facts = {"schema": "ailurus.v1.Error", "exit_code": code_of(error), "message": error.message}
    return json.dumps({**facts, "field": error.field, "remedy": error.remedy}) + "\n"
