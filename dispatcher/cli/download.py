"""Files brought from storage: by us from a file system or a web server, else by the user's own
tools, which have the user's credentials."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from ailurus.protocol.did import SCHEME as RUCIO
from ailurus.protocol.did import Did
from ailurus.protocol.url import Url
from ailurus.regular import NotRegular, open_regular
from dispatcher.cli.exits import (
    CANNOT_CREATE,
    DATA,
    NO_INPUT,
    NO_PERMISSION,
    UNAVAILABLE,
    CommandError,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import BinaryIO

    from ailurus.protocol.messages import FileRecord

PIECE = 1 << 20
SILENCE_S = 60.0
"""How long a web server may say nothing."""
_XRDCP = ("xrdcp", "--nopbar", "{url}", "{path}")
_GFAL = ("gfal-copy", "{url}", "file://{path}")
_RUCIO = ("rucio", "download", "--no-subdir", "--dir", "{directory}", "{did}")
TOOLS = {
    **dict.fromkeys(("root", "roots"), _XRDCP),
    **dict.fromkeys(("dav", "davs", "s3", "srm"), _GFAL),
    RUCIO: _RUCIO,
}
"""By scheme, the command that moves a file which we do not."""


def brought(
    file: FileRecord,
    path: Path,
    trusted: Collection[str] = (),
    *,
    force: bool = False,
    contents: bytes | None = None,
) -> str:
    """Bring a file to `path`, and say how that went. It gets its name once its size and checksum
    have been compared. `trusted`: hosts that may see the user's credentials; `contents`: what is in
    it, where that is known already.

    Raises AilurusError."""
    try:
        if os.path.lexists(path) and not force:
            if not _like(file, path):
                raise CommandError(
                    CANNOT_CREATE,
                    f"{path} is here already, and is not what the job left",
                    remedy="name another directory by --to, or write over it with --force",
                )
            return "was here"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, so that the last step is a rename.
        with tempfile.TemporaryDirectory(prefix=".ailurus-", dir=path.parent) as own:
            part = Path(own, "part")
            if contents is None:
                part = _fetched(file, Path(own), trusted)
            else:
                part.write_bytes(contents)
            size, adler32 = _sum(part)
            if size != file.size or file.adler32 not in {"", adler32}:
                raise CommandError(
                    DATA,
                    f"{file.name} has {size} bytes and adler32 {adler32} now; the job left "
                    f"{file.size} bytes with {file.adler32 or 'no checksum'}",
                    remedy="the storage has lost it, or it was written anew: ask whose it is",
                )
            part.replace(path)
    except OSError as error:
        raise CommandError(
            CANNOT_CREATE, f"cannot write {path}: {error.strerror or error}"
        ) from None
    return "brought"


def _like(file: FileRecord, path: Path) -> bool:
    """Whether `path` is the file already; without a checksum nobody knows."""
    try:
        return bool(file.adler32) and _sum(path) == (file.size, file.adler32)
    except (OSError, NotRegular):
        return False


def _sum(path: Path) -> tuple[int, str]:
    """Bytes and adler32 of a file. Raises OSError or NotRegular."""
    size, adler32 = 0, 1
    with os.fdopen(open_regular(path), "rb") as opened:
        while piece := opened.read(PIECE):
            size += len(piece)
            adler32 = zlib.adler32(piece, adler32)
    return size, f"{adler32:08x}"


def _fetched(file: FileRecord, own: Path, trusted: Collection[str]) -> Path:
    """The file from its storage, in the directory `own`. Raises AilurusError or OSError."""
    url = Url.parse(file.url)
    part = own / "part"
    if url.scheme == "file":
        with os.fdopen(_opened(file, url), "rb") as source, part.open("wb") as target:
            shutil.copyfileobj(source, target, PIECE)
        return part
    if url.scheme in {"http", "https"}:
        with part.open("wb") as target:
            _from_web(file, url, target)
        return part
    if url.scheme in TOOLS and url.scheme != RUCIO and url.host not in trusted:
        raise CommandError(
            NO_PERMISSION,
            f"{file.name} is at {url}: `{TOOLS[url.scheme][0]}` would show your credentials to "
            f"{url.host}, which the job's worker has named",
            remedy=f"if that is storage of yours, say --trust {url.host}",
        )
    return _by_tool(file, url, own)


def _opened(file: FileRecord, url: Url) -> int:
    where = os.fsdecode(b"/" + b"/".join(url.segments))
    try:
        return open_regular(where)
    except (OSError, NotRegular) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(
            NO_INPUT,
            f"{file.name} is at {url}, which cannot be read here: {why}",
            remedy="a file system of the site: run this where it is mounted",
        ) from None


def _from_web(file: FileRecord, url: Url, target: BinaryIO) -> None:
    """Raises CommandError, and OSError for the target's."""
    import requests
    import urllib3

    from ailurus.fetch import session

    def away(why: object, remedy: str = "try again later") -> CommandError:
        return CommandError(UNAVAILABLE, f"{file.name}: {url}: {why}", remedy=remedy)

    with session() as web:
        try:
            with web.get(url.sent, stream=True, timeout=SILENCE_S) as answer:
                if answer.status_code in {401, 403}:
                    raise away(
                        f"it answers {answer.status_code}, and this command shows no credential",
                        "fetch it with a tool that has yours, gfal-copy say",
                    )
                if answer.status_code != 200:
                    raise away(f"it answers {answer.status_code}")
                written = 0
                # A server without an end fills no disk.
                while written <= file.size and (piece := answer.raw.read(PIECE)):
                    written += target.write(piece)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise away(error) from None


def _by_tool(file: FileRecord, url: Url, own: Path) -> Path:
    """The file that a command brought. Raises AilurusError."""
    if (form := TOOLS.get(url.scheme)) is None:
        raise CommandError(
            DATA,
            f"{file.name} is at {url}, and nothing here fetches {url.scheme}: URLs",
            remedy="fetch it with the storage's own tool",
        )
    words = {"url": url.text, "path": str(own / "part"), "directory": str(own)}
    if url.scheme == RUCIO:
        words["did"] = str(Did.of_url(url))
    argv = [word.format(**words) for word in form]
    if shutil.which(argv[0]) is None:
        raise CommandError(
            UNAVAILABLE,
            f"{file.name} is at {url}, for which `{argv[0]}` is not on the PATH",
            remedy=f"install {argv[0]}, or run this where it is",
        )
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    found = [path for path in own.rglob("*") if path.is_file() and not path.is_symlink()]
    if done.returncode or len(found) != 1:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines()
        raise CommandError(
            UNAVAILABLE,
            f"{file.name}: `{argv[0]}` failed (exit {done.returncode}): {' '.join(said[-3:])}",
            remedy=f"it uses your own credentials: try `{argv[0]}` by hand",
        )
    return found[0]
