"""Which files a job leaves: what its declared outputs stand for, once its payload has ended.

Everything is reached from the job's directory by open descriptors and follows no link. So nothing
outside of it is read, whatever a payload put there, and whatever a process that it left behind
exchanges meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import trees
from ailurus.protocol.errors import Code
from ailurus.protocol.fields import PLAIN_FILE
from ailurus.protocol.job import JobSpec, OutputFile
from ailurus.protocol.url import Url
from pilot.ports import Check, JobError
from pilot.workdir import Workdir

MOST_ENTRIES = 100_000
"""That are looked at for the outputs of a job, and that one archive holds."""
LONGEST_PATH = 1000
"""Bytes, beneath the job's directory: how deep a tree may be."""
LONGEST_NAME = 400
"""Characters of an output's name, as of a declared one."""
_RENAME = "let the payload use plain names (letters, digits, _ . : + @ = -), or write tree: archive"


class ToStore(Struct, frozen=True, kw_only=True):
    """One open output and where it goes."""

    field: str
    name: str
    url: Url
    source: int


class Leaving(Struct, frozen=True):
    """One file that goes to storage."""

    index: int
    """Of the declared output that it belongs to."""
    file: OutputFile
    """As if it were declared alone."""
    directory: str = ""
    """The directory whose archive it is; blank: it is a file itself."""


class Entry(Struct, frozen=True):
    """Something in a tree."""

    name: str
    """Relative to the job's directory; bytes that are no UTF-8 as Python's surrogates."""
    mode: int
    size: int
    """Bytes."""


def leaving(spec: JobSpec, work: Workdir, check: Check) -> list[Leaving]:
    """The files that a job leaves, in the order of its outputs; those with a name of their own,
    whether they are there or not. Raises JobError."""
    found: list[Leaving] = []
    walk = Walk(work, check)
    for index, file in enumerate(spec.outputs):
        try:
            found += _of(index, file, spec.outputs, walk)
        except JobError as error:
            error.field = error.field or f"outputs[{index}].name"
            raise
        if len(found) >= trees.MOST_FILES:
            raise JobError(
                Code.OUTPUT_TOO_LARGE,
                f"the job leaves {len(found)} or more files, and its log is one: a report has "
                f"{trees.MOST_FILES}",
                field="outputs",
                remedy="write tree: archive, which makes one file of a directory",
            )
    return found


def _of(
    index: int, file: OutputFile, outputs: Sequence[OutputFile], walk: Walk
) -> Iterator[Leaving]:
    if not trees.is_many(file.name):
        yield Leaving(index, file)
        return
    if file.tree == trees.ARCHIVE:
        if walk.has(file.name):
            alone = replace(file, name=trees.archive_name(file.name), tree="")
            yield Leaving(index, alone, file.name)
        elif not file.optional:
            raise missing(f"the payload left no directory {file.name!r}")
        return
    count = 0
    for entry in walk.matching(file.name):
        if trees.owner(outputs, entry.name) is not file:
            continue
        count += 1
        if len(entry.name) > LONGEST_NAME or not PLAIN_FILE.fullmatch(entry.name):
            raise JobError(
                Code.BAD_FILE_NAME,
                f"the payload left {entry.name!r}, which cannot be the name of an output",
                remedy=_RENAME,
            )
        yield Leaving(index, replace(file, name=entry.name, tree="", optional=False))
    if not count and not file.optional:
        raise missing(f"the payload left no file that is {file.name!r}")


def missing(message: str) -> JobError:
    """The error of an output that is not there."""
    return JobError(
        Code.MISSING_OUTPUT,
        message,
        remedy="does it write it into the directory it starts in? Or make it `optional`",
    )


def unsafe(name: str, what: str) -> JobError:
    """The error of what cannot be part of an output."""
    return JobError(
        Code.OUTPUT_UNSAFE,
        f"{name!r} {what}",
        remedy="outputs are regular files in readable directories: let the payload copy its "
        "contents there, or remove it",
    )


class Walk:
    """Looks through the directory of a job, at so many entries at most."""

    def __init__(self, work: Workdir, check: Check) -> None:
        self._work, self._check = work, check
        self._left = MOST_ENTRIES

    def has(self, directory: str) -> bool:
        """Whether there is such a directory. Raises JobError for one that may not be read."""
        return self._entries(directory.rstrip("/").split("/")) is not None

    def matching(self, pattern: str) -> Iterator[Entry]:
        """The regular files that a glob or a directory stands for, in the order of their names.
        Raises JobError for a link, socket or device in their place."""
        if pattern.endswith("/"):
            found = self.tree(pattern)
        else:
            found = self._globbed([], pattern.split("/"))
        for entry in found:
            if stat.S_ISREG(entry.mode):
                yield entry
            elif not stat.S_ISDIR(entry.mode):
                raise unsafe(entry.name, "is a symbolic link, a socket or a device")

    def tree(self, directory: str) -> Iterator[Entry]:
        """All beneath a directory, in the order of their names, a directory before what is in
        it. Raises JobError."""
        todo = [directory.rstrip("/")]
        while todo:
            entries = self._entries(todo.pop().split("/")) or []
            yield from entries
            below = [one.name for one in entries if stat.S_ISDIR(one.mode)]
            todo += reversed(below)

    def _globbed(self, above: list[str], parts: list[str]) -> Iterator[Entry]:
        first, *rest = parts
        if rest and "*" not in first:
            yield from self._globbed([*above, first], rest)
            return
        for entry in self._entries(above, first) or []:
            if not rest:
                yield entry
            elif stat.S_ISDIR(entry.mode):
                *_, last = entry.name.split("/")
                yield from self._globbed([*above, last], rest)

    def _entries(self, parts: list[str], pattern: str = "") -> list[Entry] | None:
        """What is in a directory, sorted by name; with a pattern, what that stands for. None: there
        is no such directory."""
        self._check()
        shown = "/".join(parts)
        if len(os.fsencode(shown)) > LONGEST_PATH:
            raise JobError(
                Code.BAD_FILE_NAME,
                f"{shown[:100]!r}… is deeper than the {LONGEST_PATH} bytes that a path may have",
                remedy="let the payload make a flatter tree",
            )
        try:
            with self._work.beneath(parts) as here, os.scandir(here) as found:
                listed = self._listed(found, parts, pattern)
                return sorted(listed, key=lambda one: os.fsencode(one.name))
        except FileNotFoundError:
            return None
        except PermissionError:
            raise unsafe(shown, "cannot be opened by the pilot") from None
        except NotADirectoryError:
            raise unsafe(shown, "is no directory, or leads through a symbolic link") from None
        except OSError as error:
            raise unsafe(shown, f"cannot be listed: {error.strerror}") from None

    def _listed(
        self, found: Iterator[os.DirEntry[str]], parts: list[str], pattern: str
    ) -> Iterator[Entry]:
        for entry in found:
            self._left -= 1
            if self._left < 0:
                raise JobError(
                    Code.OUTPUT_TOO_LARGE,
                    f"more than {MOST_ENTRIES} files lie in the directories of the outputs",
                    remedy="let the payload pack them itself, or remove what nobody needs",
                )
            # First: on a shared file system each look at a file is an exchange with its server.
            if pattern and not trees.matches_part(pattern, entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield Entry("/".join([*parts, entry.name]), status.st_mode, status.st_size)
