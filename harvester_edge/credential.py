"""The site's credentials for storage, handed to its pilots: whoever renews one rewrites its file,
and the edge copies it to where pilots on the nodes read it, as their movers do for each batch.

Each copy is written whole, under another name first, with a mode that lets nobody else read it,
whatever the umask and whenever the edge is killed. A file that is half written, has expired or that
others can read is not copied: pilots keep the one they have for as long as that is good. Without a
good one no worker is submitted.
"""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ailurus.credential_text import describe
from ailurus.paths import expanded
from ailurus.protocol.errors import AilurusError
from ailurus.regular import NotRegular, open_regular
from harvester_edge import owned
from harvester_edge.files import write_whole
from harvester_edge.site import Site

MOST_BYTES = 1 << 20
EARLY_SHARE, EARLY_S, LATEST_S = 0.25, 3600.0, 2 * 86_400.0
"""A credential is renewed while more than a quarter of its time is left. What does not say when it
was made is late in its last hour; nothing is late more than two days before its end."""
OTHERS = 0o077


class Held(Struct, frozen=True, kw_only=True):
    """A credential as it lies somewhere. Times are seconds since the epoch."""

    name: str
    fault: str = ""
    """Why nobody could use it."""
    remedy: str = ""
    expires: float | None = None
    """None: it does not say."""
    renew_by: float | None = None
    """From then on it is late."""

    def late(self, now: float) -> str:
        """What to say of one that should have been renewed; empty: it is in time."""
        if self.expires is None or self.renew_by is None or now < self.renew_by:
            return ""
        ends = datetime.fromtimestamp(self.expires, UTC)
        return f"credential {self.name} ends {ends:%Y-%m-%d %H:%M} UTC, and nobody has renewed it"


class Handed(Struct, frozen=True, kw_only=True):
    """What handing credentials out came to."""

    renewed: tuple[str, ...]
    faults: tuple[str, ...]
    """Of credentials of which pilots have none that is good."""
    warnings: tuple[str, ...]


def place(site: Site, name: str) -> Path:
    """Where pilots read a credential."""
    return site.credentials_directory / name


def hand_out(site: Site, now: float) -> Handed:
    """Copy those that have been renewed. Raises AilurusError or OSError if the edge's directory
    cannot be written."""
    renewed, faults, warnings = [], [], []
    for name, path in site.credentials.items():
        source, text = _look(name, Path(expanded(path)), now)
        copy = place(site, name)
        if not source.fault and not _is(copy, text):
            owned.own(site.credentials_directory, "paths.shared")
            write_whole(copy, text, 0o600, lasting=True)
            renewed.append(name)
        here = held(site, name, now)
        why = source.fault or here.fault
        if here.fault:
            faults.append(f"credential {name}: {why} ({source.remedy or here.remedy})")
        elif why:
            warnings.append(f"credential {name}: {why} ({source.remedy})")
        elif late := here.late(now):
            warnings.append(late)
    return Handed(renewed=tuple(renewed), faults=tuple(faults), warnings=tuple(warnings))


def held(site: Site, name: str, now: float) -> Held:
    """A credential as pilots have it."""
    return _look(name, place(site, name), now)[0]


def source(site: Site, name: str, now: float) -> Held:
    """A credential as somebody renews it."""
    return _look(name, Path(expanded(site.credentials[name])), now)[0]


def _look(name: str, path: Path, now: float) -> tuple[Held, bytes]:
    """A credential's file, and its text."""
    try:
        text = _read(path)
        expires, since = _times(path, text)
    except AilurusError as error:
        return Held(name=name, fault=error.message, remedy=error.remedy), b""
    if expires is None:
        return Held(name=name), text
    early_s = EARLY_S if since is None else (expires - since) * EARLY_SHARE
    found = Held(name=name, expires=expires, renew_by=expires - min(early_s, LATEST_S))
    if expires <= now:
        fault = f"{path} expired {_ago(now - expires)} ago"
        found = replace(found, fault=fault, remedy="renew it, and look at what should have")
    return found, text


def tidy(site: Site) -> None:
    """Remove copies that the site names no more. For when no worker lives that may read them."""
    if not site.credentials_directory.is_dir():
        return
    for one in site.credentials_directory.iterdir():
        if one.name not in site.credentials:
            one.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    """The text of a file that nobody else reads or writes. Raises AilurusError."""
    try:
        fd = open_regular(path)
    except NotRegular:
        raise AilurusError(f"{path} is no file", remedy="name the file itself") from None
    except OSError as error:
        what = "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise AilurusError(f"{path} {what}", remedy="name a file of the edge's user") from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if found.st_uid not in (0, os.geteuid()):
            what = f"{path} belongs to user {found.st_uid}"
            raise AilurusError(what, remedy="a file of the edge's user")
        if found.st_mode & OTHERS:
            what = f"others can use {path} (mode {stat.S_IMODE(found.st_mode):o})"
            raise AilurusError(what, remedy=f"make another, then chmod 600 {path}")
        try:
            text = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise AilurusError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip() or len(text) > MOST_BYTES:
        what = "is empty" if not text.strip() else f"has more than {MOST_BYTES} bytes"
        raise AilurusError(f"{path} {what}", remedy="a proxy in PEM, a token, or keys")
    return text


def _times(path: Path, text: bytes) -> tuple[float | None, float | None]:
    """When it ends and when it was made, as far as it says. Raises AilurusError for one that is not
    whole."""
    if not _says(text):
        return None, None
    try:
        found = describe(text.decode("ascii", "replace"))
    except AilurusError as error:
        what = f"{path} is {error.message}"
        raise AilurusError(
            what, remedy="is it being written? Write it whole, then rename"
        ) from None
    return found.expires, found.since


def _says(text: bytes) -> bool:
    """Whether it is a proxy or a JWT, or the beginning of one. Keys of S3 and opaque tokens say
    nothing of themselves."""
    return b"-----BEGIN" in text or text.startswith(b"eyJ")


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"


def _is(copy: Path, text: bytes) -> bool:
    """Whether pilots have that text already, and nobody else has."""
    try:
        return copy.lstat().st_mode & 0o777 == 0o600 and _read(copy) == text
    except (AilurusError, OSError):
        return False
