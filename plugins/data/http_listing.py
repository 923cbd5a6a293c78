"""Directories of WebDAV's (`dav:`, `davs:`), one request each (PROPFIND, RFC 4918).

XRootD writes names into its list as they are, where the standard has them encoded. A list with a
character that no URL has is read as XRootD's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from ailurus.protocol.errors import Code
from ailurus.protocol.trees import listing, matches_pieces
from ailurus.protocol.url import Url
from pilot.ports import MOST_FOUND, Found, JobError, too_many
from plugins.data.xml_records import BadXml, Records

MOST_DEEP = 100
"""Directories in each other; a server may show one in itself."""
ASKED = (
    b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/></prop>'
    b"</propfind>"
)
HEADERS = {"Depth": "1", "Content-Type": "application/xml"}
_FIELDS = ("href", "collection", "getcontentlength")
_NO_URL = re.compile(r"[^!#-;=?-\[\]_a-z~]|%(?![0-9A-Fa-f]{2})")

_REMEDY = "name the files, or let the site file give the scheme to gfal2 (`storage.plugins`)"

Ask = Callable[[Url], Iterable[bytes]]
"""What a server answers to a PROPFIND of `ASKED`, in pieces. Raises JobError."""


class _Entry(Struct, frozen=True):
    name: str
    is_directory: bool
    size: int | None


def listed(url: Url, ask: Ask) -> Sequence[Found]:
    """As `pilot.ports.Lister` has it."""
    top, pieces = listing(url)
    found: list[Found] = []
    todo = [(top, "", 1)]
    asked = 0
    while todo:
        directory, above, depth = todo.pop()
        asked += 1
        if depth > MOST_DEEP:
            raise _odd(url, f"has more than {MOST_DEEP} directories in each other")
        below = []
        for one in _entries(directory, ask):
            there = directory.joined(one.name)
            if one.is_directory:
                if not pieces:
                    below.append((there.joined(""), f"{above}{one.name}/", depth + 1))
            elif not pieces or matches_pieces(pieces, one.name):
                found.append(Found(name=f"{above}{one.name}", url=there.text, size=one.size))
            if len(found) + len(below) + len(todo) + asked > MOST_FOUND:
                raise too_many(url)
        todo += reversed(below)
    return found


def lists_nothing(url: Url, why: JobError) -> JobError:
    """The error of a directory whose server is no WebDAV's."""
    return JobError(
        Code.NO_PROTOCOL,
        f"{url} names the files of a directory, and its server lists none ({why.message})",
        remedy=_REMEDY,
        transient=False,
    )


def _entries(directory: Url, ask: Ask) -> list[_Entry]:
    """What is in a directory, sorted by name. Raises JobError."""
    own = _names(directory.path, encoded=True)
    records = Records("response", _FIELDS)
    try:
        seen = list(_few(records.of(ask(directory)), directory))
    except BadXml as error:
        raise _odd(
            directory, f"cannot be listed: its server's answer is no list, for {error}"
        ) from None
    encoded = not any(_NO_URL.search(one.get("href", "").strip()) for one in seen)
    found: list[_Entry] = []
    for one in seen:
        names = _names(_path(one.get("href", "")), encoded=encoded)
        if names == own:
            if "collection" not in one:
                raise _odd(directory, "is no directory")
            continue
        if names[:-1] != own or {*names[-1]} & {*b"/\0"}:
            raise _odd(directory, "is listed with a file that is not in it")
        name = names[-1].decode("utf-8", "surrogateescape")
        length = re.fullmatch(r"[0-9]{1,18}", one.get("getcontentlength", "").strip())
        found.append(_Entry(name, "collection" in one, int(length[0]) if length else None))
    return sorted(found, key=lambda one: one.name)


def _few(records: Iterator[Mapping[str, str]], directory: Url) -> Iterator[Mapping[str, str]]:
    """Records, of which there are no more than a job can have. Raises JobError."""
    for number, one in enumerate(records):
        # The directory itself is one.
        if number > MOST_FOUND:
            raise too_many(directory)
        yield one


def _path(href: str) -> str:
    """Of a URL, or of the path alone, which a server may write instead."""
    return re.sub(r"^\s*[a-z]+://[^/]*", "", href, flags=re.IGNORECASE).strip("\r\n\t")


def _names(path: str, *, encoded: bool) -> list[bytes]:
    if encoded:
        plain = [unquote_to_bytes(name) for name in path.strip().split("/")]
    else:
        plain = path.encode().split(b"/")
    return [name for name in plain if name]


def _odd(url: Url, what: str) -> JobError:
    return JobError(
        Code.STAGE_IN_FAILED,
        f"{url} {what}",
        remedy=_REMEDY,
        transient=False,
    )
