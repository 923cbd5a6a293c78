"""Names of inputs and outputs that stand for many files: directories and globs. Pure.

`results/hist.root`   a file in a sub-directory
`results/*.root`      a glob: `*` stands for any characters but a slash, and no leading dot
`results/`            a directory with all that is in it
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final
from urllib.parse import unquote

from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.url import Url

ARCHIVE: Final = "archive"
DATASET: Final = "dataset"
SUFFIX: Final = ".tar.gz"
"""Of the archive that a directory becomes."""
MOST_FILES: Final = 10_000
"""Files of a job, inputs and outputs each, however few names stand for them."""
UNLISTED: Final = frozenset({"http", "https"})
"""Schemes of servers that list nothing."""
_PACKED: Final = re.compile(r"\.(tar\.gz|tgz|tar)$")


def is_many(name: str) -> bool:
    """Whether a name stands for any number of files."""
    return "*" in name or name.endswith("/")


def matches(pattern: str, name: str) -> bool:
    """Whether a file's name is what `pattern` names, or one of what it stands for."""
    if pattern.endswith("/"):
        return name.startswith(pattern)
    wanted, parts = pattern.split("/"), name.split("/")
    return len(wanted) == len(parts) and all(map(matches_part, wanted, parts))


def matches_part(pattern: str, part: str) -> bool:
    """The same of one name between slashes. No glob takes a hidden file."""
    return matches_pieces(pattern.split("*"), part) if "*" in pattern else part == pattern


def matches_pieces(pieces: Sequence[str], part: str) -> bool:
    """Whether a name has these pieces in their order, and anything between them."""
    first, *middle, last = pieces
    end = len(part) - len(last)
    if part.startswith(".") or not (part.startswith(first) and part.endswith(last)):
        return False
    at = len(first)
    for piece in middle:
        if (found := part.find(piece, at, end)) < 0:
            return False
        at = found + len(piece)
    return at <= end


def effective(output: OutputFile) -> str:
    """The name, or the pattern of names, of what an output leaves in storage."""
    return archive_name(output.name) if output.tree == ARCHIVE else output.name


def archive_name(directory: str) -> str:
    """What the archive of a directory is called."""
    return directory.rstrip("/") + SUFFIX


def unpacked_name(name: str) -> str:
    """The directory into which an archive is unpacked."""
    return _PACKED.sub("", name) or name


def place(file: InputFile) -> str:
    """Where an input is when the payload starts: the name of a file or of a directory."""
    return unpacked_name(file.name) if file.unpack else file.name.rstrip("/")


def sample(output: OutputFile) -> str:
    """A name that a file of an output may have, as short as there is."""
    name = effective(output).replace("*", "x")
    return f"{name}x" if name.endswith("/") else name


def owner(outputs: Sequence[OutputFile], name: str) -> OutputFile | None:
    """The declared output that a file belongs to: the one of its own name, else the first that
    stands for it."""
    found = None
    for output in outputs:
        pattern = effective(output)
        if pattern == name:
            return output
        if found is None and is_many(pattern) and matches(pattern, name):
            found = output
    return found


def can_make(output: OutputFile, wanted: str) -> bool:
    """Whether what an output leaves may be what a child's input without a URL names."""
    made = effective(output)
    if made == wanted or (is_many(made) and not is_many(wanted) and matches(made, wanted)):
        return True
    if not is_many(wanted):
        return False
    below = wanted.startswith(made) if made.endswith("/") else False
    return below or (not is_many(made) and matches(wanted, made))


def chosen(wanted: str, names: Iterable[str]) -> list[str]:
    """Those of the files that jobs have made which an input without a URL names."""
    return sorted(name for name in names if name == wanted or matches(wanted, name))


def is_listed(url: Url) -> bool:
    """Whether a URL names the files of a directory: by a slash at its end, or by a glob in its last
    name. Plain web servers list nothing: there it is one file, whatever it is called."""
    if url.scheme in UNLISTED:
        return False
    return url.path.endswith("/") or "*" in url.path.rpartition("/")[2]


def listing(url: Url) -> tuple[Url, Sequence[str]]:
    """The directory to list for such a URL, and the pieces that its files must match; none: all of
    them, at any depth."""
    above, _, last = url.path.rpartition("/")
    if "*" not in last:
        return url, ()
    directory = Url(url.scheme, url.host, f"{above}/", url.userinfo, url.port, url.query)
    return directory, [unquote(one, errors="surrogateescape") for one in last.split("*")]


def within(names: Iterable[str]) -> tuple[str, str] | None:
    """A name that needs a directory where another is, and that other; None: there is none."""
    # A directory's name stands right before that of one in it: names have many parts.
    for above, name in pairwise(sorted(f"{name}/" for name in set(names))):
        if name.startswith(above):
            return name[:-1], above[:-1]
    return None
