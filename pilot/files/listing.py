"""Which files a job's inputs stand for: what catalogues and servers list is held to the rules of
the site and of the job, as what a job declares itself."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence

from ailurus.protocol import trees
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import InputFile, JobSpec
from ailurus.protocol.url import Url
from pilot.files.input_space import Wanted
from pilot.ports import Found, JobError
from pilot.site import Bounds

LONGEST_NAME = 1000
"""Bytes of a listed file's name, beneath the directory of its input."""
SMALLER = "make several jobs of it, or run it at a site with larger `limits.inputs`"
"""What helps where a site takes no inputs so large."""
_RENAME = "have it renamed or removed there, or name the files that are needed one by one"


def parts_of(
    file: InputFile, url: Url, found: Sequence[Found], field: str, allow: Callable[[Url], None]
) -> list[Wanted]:
    """The files of a directory or a data set, which come into a directory of the input's name.
    `allow` raises for a URL that the site does not let jobs use. Raises JobError."""
    wanted: list[Wanted] = []
    names: set[str] = set()
    if not found:
        raise JobError(
            Code.NO_SUCH_FILE,
            f"{url} names no file",
            field=field,
            remedy="put the inputs where the job says they are",
        )
    for one in found:
        if odd := _odd(one.name, names):
            raise JobError(Code.BAD_FILE_NAME, f"{url} has {odd}", field=field, remedy=_RENAME)
        names.add(one.name)
        part = _url(url, one, field)
        allow(part)
        name = f"{file.name}/{one.name}"
        declared = InputFile(name=name, url=part.text, size=one.size, adler32=one.adler32)
        wanted.append(Wanted(field=field, name=name, url=part, file=declared))
    if clash := trees.within(names):
        what = f"{url} has {clash[0]!r}, and a file {clash[1]!r}"
        raise JobError(Code.BAD_FILE_NAME, what, field=field, remedy=_RENAME)
    return wanted


def _odd(name: str, names: set[str]) -> str:
    """What is wrong with a listed name; blank: nothing."""
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        return f"a file called {name!r}"
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
        return f"a file with a name of more than {LONGEST_NAME} bytes"
    return f"more than one file called {name!r}" if name in names else ""


def _url(url: Url, one: Found, field: str) -> Url:
    try:
        part = Url.parse(one.url)
    except AilurusError as error:
        what = f"{url} lists a file that has no URL: {error.message}"
        raise JobError(Code.STAGE_IN_FAILED, what, field=field, remedy=_RENAME) from None
    check_size(url, one, field)
    return part


def check_size(url: Url, one: Found, field: str) -> None:
    """Raise JobError for a size that no file has, which would make room for others."""
    if one.size is not None and one.size < 0:
        raise JobError(
            Code.STAGE_IN_FAILED,
            f"{url} lists {one.name!r} with {one.size} bytes",
            field=field,
            remedy="look at that server, or declare the `size` of the input",
        )


def check_amount(wanted: Sequence[Wanted], bounds: Bounds) -> int:
    """Raise JobError for more inputs than the site takes; the bytes that are known of them."""
    if len(wanted) > trees.MOST_FILES:
        raise JobError(
            Code.INPUTS_TOO_LARGE,
            f"the inputs are {len(wanted)} files, and a job has {trees.MOST_FILES} at most",
            field="inputs",
            remedy="make several jobs of it, or archives of its files",
        )
    known = sum(one.file.size or 0 for one in wanted)
    if 0 < bounds.inputs_bytes < known:
        raise JobError(
            Code.INPUTS_TOO_LARGE,
            f"the inputs have {known} bytes, this site takes {bounds.inputs_bytes}",
            field="inputs",
            remedy=SMALLER,
        )
    return known


def check_places(spec: JobSpec, wanted: Sequence[Wanted]) -> None:
    """Raise JobError for an archive among the inputs that is more than one file."""
    packed = {file.name for file in spec.inputs if file.unpack}
    for one in wanted:
        above = posixpath.dirname(one.name)
        while above:
            if above in packed:
                raise JobError(
                    Code.STAGE_IN_FAILED,
                    f"{above} is a data set, and `unpack` is for one archive",
                    field=one.field,
                    remedy="leave `unpack` out, or name one file of the data set",
                    transient=False,
                )
            above = posixpath.dirname(above)
