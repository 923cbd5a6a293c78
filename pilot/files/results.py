"""The result document of a job, read from its directory when its payload has ended well."""

from __future__ import annotations

import errno
import os

from ailurus.protocol.errors import Code
from ailurus.protocol.results import MOST_BYTES, NoResult, canonical
from ailurus.regular import NotRegular
from pilot.blame import Target, job_error
from pilot.ports import JobError
from pilot.workdir import Workdir

_LEAVE = "let the payload leave a JSON document there, or take `result` out of the job"


def result_in(work: Workdir, name: str) -> str:
    """The document in the file `name` of the job's directory. Raises JobError."""
    try:
        fd = work.open(name)
    except FileNotFoundError:
        what = f"the payload left no result {name!r}"
        raise JobError(Code.MISSING_OUTPUT, what, field="result", remedy=_LEAVE) from None
    except (NotRegular, ValueError) as error:
        raise JobError(Code.OUTPUT_UNSAFE, str(error), field="result", remedy=_LEAVE) from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            what = f"the result {name!r} is a link, or in what is no directory"
            raise JobError(Code.OUTPUT_UNSAFE, what, field="result", remedy=_LEAVE) from None
        raise job_error(error, f"cannot read the result {name!r}", Target.JOB) from None
    with os.fdopen(fd, "rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise JobError(
            Code.OUTPUT_TOO_LARGE,
            f"the result {name!r} has more than {MOST_BYTES >> 10} KiB",
            field="result",
            remedy="leave a summary there, and the rest as an output",
        )
    try:
        return canonical(text)
    except NoResult as error:
        what = f"the result {name!r} cannot be read: {error}"
        raise JobError(Code.PAYLOAD_FAILED, what, field="result", remedy=_LEAVE) from None
