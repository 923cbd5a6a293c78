"""Small files that travel with a submission: `upload://file/SHA256`, and `upload://program/SHA256`
of one that may be executed. The dispatcher keeps them for the jobs that name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import InputFile, JobSpec

SCHEME = "upload"
MOST_FILE_BYTES = 10 << 20
MOST_SUBMISSION_BYTES = 100 << 20
"""Of the different files of a submission together."""
PIECE_BYTES = 512 << 10
"""They are sent in pieces of so many; the last one is shorter."""
_FORM = re.compile(r"upload://(file|program)/([0-9a-f]{64})")
_START = f"{SCHEME}://"


class Upload(Struct, frozen=True):
    """What a URL names."""

    # SHA-256 in hexadecimal digits.
    digest: str
    program: bool = False

    @property
    def url(self) -> str:
        return f"{_START}{'program' if self.program else 'file'}/{self.digest}"


def is_upload(url: str) -> bool:
    """Whether a URL is of this scheme."""
    return url.startswith(_START)


def upload_of(url: str) -> Upload:
    """What a URL of this scheme names. Raises AilurusError."""
    found = _FORM.fullmatch(url)
    if found is None:
        raise AilurusError(
            f"{url!r} names no uploaded file",
            remedy="{upload: PATH} in a job file; or upload://file/ and the SHA-256 in hexadecimal",
        )
    return Upload(found[2], program=found[1] == "program")


def has_uploads(job: JobSpec) -> bool:
    """Whether a job names uploaded files."""
    return any(is_upload(file.url) for file in job.inputs)


def check_upload(file: InputFile, where: str) -> None:
    """Raise AilurusError for an input that could be no uploaded file, with the field."""
    try:
        upload_of(file.url)
    except AilurusError as error:
        raise AilurusError(error.message, field=f"{where}.url", remedy=error.remedy) from None
    if file.size is None or file.size > MOST_FILE_BYTES:
        raise too_large(file.name, file.size, f"{where}.size")
    if file.direct:
        raise AilurusError(
            f"input {file.name!r} travels with the job: no payload can read it over the network",
            field=f"{where}.direct",
            remedy="leave `direct` out",
        )


def too_large(name: str, size: int | None, where: str) -> AilurusError:
    """The error of a file that does not travel with a job."""
    has = "does not say its size" if size is None else f"has {size:,} bytes"
    return AilurusError(
        f"{name!r} {has}, and a file that travels with a job has at most {MOST_FILE_BYTES:,}",
        field=where,
        remedy="put it on storage that the nodes reach, and name its path or URL",
    )


def check_uploads(jobs: Sequence[JobSpec]) -> None:
    """Raise AilurusError for a submission with more uploaded files than it may have."""
    seen: set[str] = set()
    total = 0
    for nr, job in enumerate(jobs):
        for place, file in enumerate(job.inputs):
            if not is_upload(file.url) or file.url in seen:
                continue
            seen.add(file.url)
            total += file.size or 0
            if total > MOST_SUBMISSION_BYTES:
                raise AilurusError(
                    f"the files that travel with these jobs have more than "
                    f"{MOST_SUBMISSION_BYTES:,} bytes together",
                    field=f"jobs[{nr}].inputs[{place}]",
                    remedy="put them on storage that the nodes reach, or make several submissions",
                )


def named(jobs: Iterable[JobSpec]) -> Iterator[tuple[int, int, Upload, int]]:
    """The uploaded files that jobs name: places of the job and of the input, what it is, its
    bytes."""
    for nr, job in enumerate(jobs):
        for place, file in enumerate(job.inputs):
            if is_upload(file.url):
                yield nr, place, upload_of(file.url), file.size or 0
