"""Where the outputs of an attempt go: under names that no other attempt has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ailurus.protocol import did
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import OutputFile
from ailurus.protocol.url import LONGEST, Url
from pilot.attempt import Attempt
from pilot.ports import JobError
from pilot.site import Storage


class Destinations:
    """Names outputs in storage. `default`: the directory of those without one."""

    def __init__(self, default: str, storage: Storage) -> None:
        self.default = default
        self.rse, self.alternative = storage.rse, storage.alternative_output

    def physical(self, attempt: Attempt, file: OutputFile, *, instead: str = "") -> Url:
        """The URL of an attempt's output, which no other attempt has; in the directory `instead`,
        if its own takes nothing. Raises JobError if there is none."""
        if file.scope and not instead:
            return self._registered(attempt, file)
        directory = instead or file.url or self.default
        if not directory:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"output {file.name!r} has no url and this site has no default storage",
                remedy="give the output a url, the site file `storage.default_output`, or a pilot without "
                "one --storage",
            )
        url = parsed(directory)
        if url.scheme == did.SCHEME:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"output {file.name!r} goes to {url}, which is no directory",
                remedy="give the output a scope instead, and the site file `storage.rse`",
            )
        for part in f"{attempt.name}.{file.name}".split("/"):
            url = url.joined(part)
        if len(url.text) > LONGEST:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"the URL of output {file.name!r} is longer than {LONGEST} characters",
                remedy="shorten its directory, or the site file's `storage.default_output`",
            )
        return url

    def _registered(self, attempt: Attempt, file: OutputFile) -> Url:
        """Where an output goes that Rucio will know."""
        if not self.rse:
            raise JobError(
                Code.STORAGE_FORBIDDEN,
                f"output {file.name!r} belongs to Rucio, and this site names no storage there",
                remedy="let the site file say `storage.rse`",
            )
        mark = attempt.assignment.mark
        named = did.physical(file.scope, *attempt.id, file.name, mark)
        try:
            # Of a tree, the payload chose the name.
            return did.Did.parse(str(named)).url(self.rse)
        except AilurusError as error:
            raise JobError(
                Code.BAD_FILE_NAME,
                f"output {file.name!r} cannot be a name in Rucio",
                remedy=error.remedy,
            ) from None

    def urls(self, attempt: Attempt, files: Iterable[OutputFile]) -> list[str]:
        """Where an attempt may leave files."""
        urls = []
        for file in files:
            with contextlib.suppress(JobError):
                urls.append(self.physical(attempt, file).text)
                if self.alternative and not file.scope:
                    urls.append(self.physical(attempt, file, instead=self.alternative).text)
        return urls


# Each job parses the site's default directory.
@lru_cache(100)
def parsed(url: str) -> Url:
    """A URL of a job or a site. Raises JobError."""
    try:
        return Url.parse(url)
    except AilurusError as error:
        raise JobError(Code.STORAGE_FORBIDDEN, error.message, remedy=error.remedy) from None


def field_of_output(
    attempt: Attempt, index: int, name: str
) -> contextlib.AbstractContextManager[None]:
    """Say whose output of that name an error is about: the job's, or one of its payloads'."""
    item = attempt.of_items.get(name)
    return field_of(f"outputs[{index}].name" if item is None else f"payloads[{item}].outputs")


@contextlib.contextmanager
def field_of(name: str) -> Iterator[None]:
    """Say which field of the job an error is about."""
    try:
        yield
    except JobError as error:
        error.field = error.field or name
        raise
