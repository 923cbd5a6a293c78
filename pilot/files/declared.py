"""An input that came, held against what is declared of it."""

from __future__ import annotations

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from pilot.ports import Copied, JobError


def compare(file: InputFile, copied: Copied) -> None:
    """Raise JobError where size or checksums of what came differ from what was declared."""
    if file.size is not None and file.size != copied.size:
        raise JobError(
            Code.STAGE_IN_FAILED,
            f"{file.name} has {copied.size} bytes, declared are {file.size}",
            remedy="the file is damaged, or the job declares another one",
        )
    if file.adler32 is not None and file.adler32 != copied.adler32:
        raise JobError(
            Code.GET_ADLER_MISMATCH,
            f"{file.name} has adler32 {copied.adler32}, declared is {file.adler32}",
            remedy="the file is damaged, or the job declares another one",
        )
    if file.md5 is not None and file.md5 != copied.md5:
        raise JobError(
            Code.GET_MD5_MISMATCH,
            f"{file.name} has md5 {copied.md5}, declared is {file.md5}",
            remedy="the file is damaged, or the job declares another one",
        )
