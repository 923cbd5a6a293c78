"""What must hold of the files of one job, beyond the form of each field. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ailurus.protocol import trees
from ailurus.protocol.did import SCHEME, Did, rse_of
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import LOG, InputFile, OutputFile
from ailurus.protocol.uploads import check_upload, is_upload
from ailurus.protocol.url import Url

OF_A_TREE = "write tree: archive for one file, or tree: dataset for each file of its own"


def check_inputs(files: Sequence[InputFile], where: str) -> None:
    """Raise AilurusError for inputs that could not be meant, with the field."""
    for nr, file in enumerate(files):
        field = f"{where}[{nr}]"
        many = trees.is_many(file.name)
        if file.url:
            url = _check_url(file.url, f"{field}.url", globs=True)
            if many:
                raise AilurusError(
                    f"input {file.name!r} has a url, and its name stands for many files",
                    field=f"{field}.name",
                    remedy="name the directory into which its files come, without * and /",
                )
            if is_upload(file.url):
                check_upload(file, field)
            many = trees.is_listed(url)
        if file.unpack and (file.direct or many):
            raise AilurusError(
                f"input {file.name!r} is no archive that could be unpacked",
                field=f"{field}.unpack",
                remedy="unpack one archive at a time, and not one that is read `direct`",
            )
        if file.direct and file.url and many:
            raise AilurusError(
                f"input {file.name!r} stands for many files, and `direct` gives one URL",
                field=f"{field}.direct",
                remedy="list the files one by one",
            )
        if many and (file.size, file.adler32, file.md5) != (None, None, None):
            raise AilurusError(
                f"input {file.name!r} stands for many files, which have no common size or checksum",
                field=field,
                remedy="leave these out",
            )
    if len(files) > 1:
        _check_names([trees.place(file) for file in files], where)


def check_outputs(files: Sequence[OutputFile], where: str) -> None:
    """Raise AilurusError for outputs that could not be meant, with the field."""
    for nr, file in enumerate(files):
        field = f"{where}[{nr}]"
        if file.url:
            _check_url(file.url, f"{field}.url")
        if is_upload(file.url):
            raise AilurusError(
                f"output {file.name!r} cannot go to where uploaded files are",
                field=f"{field}.url",
                remedy="name a directory of a storage, or leave `url` out for the site's",
            )
        if trees.effective(file) == LOG:
            raise AilurusError(
                f"{LOG} is the log of each attempt",
                field=f"{field}.name",
                remedy="give the output another name",
            )
        is_directory = file.name.endswith("/")
        if is_directory and not file.tree:
            raise AilurusError(
                f"output {file.name!r} is a directory, and it is not said what becomes of it",
                field=f"{field}.tree",
                remedy=OF_A_TREE,
            )
        if file.tree and not (is_directory or ("*" in file.name and file.tree == trees.DATASET)):
            raise AilurusError(
                f"output {file.name!r} has tree: {file.tree}, and is no directory",
                field=f"{field}.tree",
                remedy="write a directory with a / at its end, or leave `tree` out",
            )
        if file.tree == trees.ARCHIVE and "*" in file.name:
            raise AilurusError(
                f"output {file.name!r} is to be one archive, and stands for many directories",
                field=f"{field}.name",
                remedy="name one directory",
            )
    if len(files) > 1:
        _check_twice([trees.effective(file) for file in files], where)


def _check_names(names: Sequence[str], where: str) -> None:
    _check_twice(names, where)
    if (clash := trees.within(names)) is not None:
        raise AilurusError(
            f"{clash[0]!r} needs a directory where {clash[1]!r} is",
            field=where,
            remedy="give one of them another name",
        )


def _check_twice(names: Iterable[str], where: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise AilurusError(
                f"{name!r} appears {times} times", field=where, remedy="give each its own name"
            )


def _check_url(text: str, where: str, *, globs: bool = False) -> Url:
    try:
        url = Url.parse(text)
        if url.scheme == SCHEME:
            Did.of_url(url)
            rse_of(url)
    except AilurusError as error:
        raise AilurusError(error.message, field=where, remedy=error.remedy) from None
    if url.scheme == "file" and (url.query is not None or url.fragment is not None):
        raise AilurusError(
            f"{url} has a query or a fragment, and files have none",
            field=where,
            remedy="in the URL of a file write ? as %3F and # as %23; a path is written as it is",
        )
    if globs and url.scheme not in trees.UNLISTED and "*" in url.path.rpartition("/")[0]:
        raise AilurusError(
            f"{url} has a * in the name of a directory",
            field=where,
            remedy="only the last name may have one; a * that is meant itself is written %2A",
        )
    return url
