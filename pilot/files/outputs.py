"""Opening what a payload left: single files, and directories as archives."""

from __future__ import annotations

import errno
import os
import tempfile

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec, OutputFile
from pilot.blame import OSErrorsOn, Target, job_error
from pilot.files.leaving import Leaving, missing
from pilot.ports import Check, JobError
from pilot.site import Bounds
from pilot.workdir import Workdir

# What opening a link, a socket or a device fails with.
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)


def opened(one: Leaving, spec: JobSpec, work: Workdir, bounds: Bounds, check: Check) -> int | None:
    """The contents of an output, open for reading; None: it is optional, and not there. Raises
    JobError."""
    if one.directory:
        source = _packed(one.directory, spec, work, bounds, check)
    elif (found := _file(one.file, work)) is None:
        return None
    else:
        source = found
    size = os.fstat(source).st_size
    if size > bounds.output_bytes:
        os.close(source)
        raise JobError(
            Code.OUTPUT_TOO_LARGE,
            f"{one.file.name} has {size} bytes, this site takes {bounds.output_bytes}",
            remedy="write several files, or run it at a site with larger `limits.output`",
        )
    return source


def _packed(directory: str, spec: JobSpec, work: Workdir, bounds: Bounds, check: Check) -> int:
    from pilot.files.archive import pack

    disk = (spec.disk_mb << 20) + sum(file.size or 0 for file in spec.inputs)
    making = OSErrorsOn(Target.NODE, f"cannot make the archive of {directory}")
    # It has no name, so it goes with the pilot, whatever ends that.
    with making, tempfile.TemporaryFile(dir=work.path) as file:
        pack(directory, work, file, min(disk, bounds.output_bytes), check)
        file.flush()
        file.seek(0)
        return os.dup(file.fileno())


def _file(file: OutputFile, work: Workdir) -> int | None:
    try:
        return work.open(file.name)
    except FileNotFoundError:
        if file.optional:
            return None
        raise missing(f"the payload left no file {file.name!r}") from None
    except PermissionError:
        raise JobError(
            Code.OUTPUT_UNSAFE,
            f"the payload left {file.name!r}, but the pilot may not read it",
            remedy="let the payload end with `chmod u+r` on it, and u+x on its directories",
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_FILE:
            raise job_error(error, f"cannot read the output {file.name!r}", Target.JOB) from None
        what = str(error)
        if isinstance(error, OSError):
            what = f"{file.name!r} is a symbolic link, a socket or a device"
        raise JobError(
            Code.OUTPUT_UNSAFE,
            f"{what}, and only a regular file can be an output",
            remedy="let the payload copy the contents to a file of that name",
        ) from None
