"""URLs of data, parsed once: joined, named and shown here and nowhere else.

On the wire a URL stays a text (`FileUrl`, `DirectoryUrl`), which its user parses. `str()` of a
parsed URL is for people, `.text` is stored, `.sent` is sent to a server; so no log line shows a
secret by mistake.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import quote, unquote_to_bytes, urljoin

from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.shown import mark, shown

_FORM: Final = r"^([a-z][a-z0-9+.-]*://[^\x00-\x20]+)?(?!\n)$"
LONGEST: Final = 2500
LONGEST_DIRECTORY: Final = 2000
FileUrl = Annotated[
    str, Meta(max_length=LONGEST, pattern=_FORM, description="scheme://..., without spaces")
]
"""Where a file is. The same type where it is stored and where it is handed out: whatever a parent's
report may say, a child's input can hold."""
DirectoryUrl = Annotated[
    str,
    Meta(max_length=LONGEST_DIRECTORY, pattern=_FORM, description="scheme://..., without spaces"),
]
"""Where files go. Shorter than a file's URL by more than a job's id, attempt and longest file
name."""

_PARTS: Final = (
    r"([A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:([^/?#\x00-\x20]*)@)?"
    r"(?:\[([0-9A-Fa-f:.]+(?:%25[^\]/?#@\x00-\x20]+)?)\]|([^/?#@:\[\]\\\x00-\x20]*))"
    r"(?::([0-9]{0,5}))?"
    r"(/[^?#\x00-\x20]*)?"
    r"(?:\?([^#\x00-\x20]*))?"
    r"(?:#([^\x00-\x20]*))?"
)
# Of Rucio: what comes after the scope is the path, from its colon on; names may have slashes.
_DID_PARTS: Final = r"(rucio)://([^/?#@:\[\]\\\x00-\x20]+)(:[^?#\x00-\x20]+)(?:\?([^#\x00-\x20]*))?"
_PORTS: Final = {"http": 80, "https": 443}
# And letters, digits, -._~.
_IN_A_SEGMENT: Final = "!$&'()*+,;=:@"


class Url(Struct, frozen=True, gc=False):
    """A URL in its parts, each as it was written: nothing is decoded or put in another case."""

    # In lower case.
    scheme: str
    # An IPv6 address without its brackets; of `rucio:` the scope.
    host: str = ""
    # Of `rucio:` the name, with the colon before it.
    path: str = ""
    userinfo: str | None = None
    port: int | None = None
    query: str | None = None
    fragment: str | None = None

    @staticmethod
    def parse(text: str) -> Url:
        """The URL in a text. Raises AilurusError, whose message shows no secrets either."""
        if text.startswith("rucio:") and (did := re.fullmatch(_DID_PARTS, text)):
            return Url(did[1], did[2], did[3], query=did[4])
        parts = re.fullmatch(_PARTS, text) if _encodable(text) else None
        if parts is None or int(parts[5] or 0) > 65535:
            raise AilurusError(
                f"{shown(text)!r} is not a URL",
                remedy="write scheme://host/path; other characters as %XX",
            )
        scheme, userinfo, six, host, port, path, query, fragment = parts.groups()
        number = int(port) if port else None
        return Url(scheme.lower(), six or host, path or "", userinfo, number, query, fragment)

    @staticmethod
    def of_path(path: str) -> Url:
        """The `file:` URL of an absolute path. Bytes that are no UTF-8 come as Python's surrogates.
        Raises AilurusError."""
        try:
            return Url("file", path=quote(path, safe="/" + _IN_A_SEGMENT, errors="surrogateescape"))
        except UnicodeEncodeError:
            raise AilurusError(f"{path!r} has half a character") from None

    @property
    def _server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def sent(self) -> str:
        """The URL as a server gets it: all but the fragment."""
        user = "" if self.userinfo is None else f"{self.userinfo}@"
        query = "" if self.query is None else f"?{self.query}"
        return f"{self.scheme}://{user}{self._server}{self.path}{query}"

    @property
    def text(self) -> str:
        """The whole URL, as it is stored. Not for people: it may hold secrets."""
        return self.sent if self.fragment is None else f"{self.sent}#{self.fragment}"

    def __str__(self) -> str:
        """The URL for people: without user, password, query and fragment."""
        query = "" if self.query is None else mark(f"?{self.query}")
        return f"{self.scheme}://{self._server}{self.path}{query}"

    def __repr__(self) -> str:
        return repr(str(self))

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port, by which servers are compared. Port 0: the scheme has no usual
        one."""
        port = self.port if self.port is not None else _PORTS.get(self.scheme, 0)
        return self.scheme, self.host.lower(), port

    def within(self, prefix: Url) -> bool:
        """Whether this is what `prefix` names, or lies beneath it: the same server, whole names."""
        path, above = self.path or "/", prefix.path or "/"
        below = path == above or path.startswith(f"{above.rstrip('/')}/")
        return self.origin == prefix.origin and below

    @property
    def web(self) -> Url:
        """The URL that is asked: dav is http."""
        scheme = {"dav": "http", "davs": "https"}.get(self.scheme)
        return replace(self, scheme=scheme) if scheme else self

    @property
    def segments(self) -> list[bytes]:
        """The names on the path from the top, decoded: bytes, whatever the locale says. Empty ones
        (of `//` and of a last slash) stay."""
        return [unquote_to_bytes(segment) for segment in self.path.split("/")[1:]]

    @property
    def climbs(self) -> bool:
        """Whether a server may take the path for another than it seems to be: it has `.` or `..`,
        be they encoded, or a backslash, which some take for a slash."""
        names = (part for name in self.segments for part in name.split(b"/"))
        dotted = any(unquote_to_bytes(name) in {b".", b".."} for name in names)
        return dotted or "\\" in self.path

    @property
    def name(self) -> str:
        """The name of the file: the last one on the path, decoded; empty after a last slash."""
        last = re.split("[/:]" if self.scheme == "rucio" else "/", self.path)[-1]
        return unquote_to_bytes(last).decode("utf-8", "replace")

    @property
    def parent(self) -> Url:
        """The directory of a file."""
        path = self.path.rpartition("/")[0] or "/"
        return Url(self.scheme, self.host, path, self.userinfo, self.port, self.query)

    def joined(self, name: str) -> Url:
        """The file `name` in this directory: the query stays behind the path, the fragment goes."""
        slash = "" if self.path.endswith("/") else "/"
        path = f"{self.path}{slash}{quote(name, safe=_IN_A_SEGMENT, errors='surrogateescape')}"
        return Url(self.scheme, self.host, path, self.userinfo, self.port, self.query)

    def redirected(self, location: str) -> Url:
        """Where a server's `Location` leads from here. Nothing of our query goes with it: whatever
        the target needs, the redirect itself carries. Raises AilurusError."""
        try:
            return Url.parse(urljoin(self.sent, location.strip().replace(" ", "%20")))
        except ValueError:
            raise AilurusError(f"{shown(location)!r} is not a URL") from None


def _encodable(text: str) -> bool:
    """Whether a text has no halves of characters, which YAML has an escape for."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
