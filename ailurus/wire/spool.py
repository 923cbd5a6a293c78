"""The native API through a shared directory, for nodes that reach nothing but a shared file system.

    DIR/ask/H/ID       a request, written under another name and renamed: whole or not there
    DIR/answer/H/ID    its answer, which the client removes

ID is random and H its first digit, so no directory holds more than a sixteenth. The relay removes a
request after it has written the answer: a request that a killed relay left is answered again, and
every request may be repeated. Nothing is watched and nothing is locked, since shared file systems
do neither well; a waiting client polls ever more rarely.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import urllib3
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import SLACK_S, Client
from ailurus.wire.retry import Patience

SCHEME = "spool://"
FANS = "0123456789abcdef"
FIRST_S, GROWTH, LONGEST_S = 0.05, 1.5, 2.0


class SpoolRequest(Struct, frozen=True):
    """A request. `until`: seconds since 1970 after which the client waits for no answer."""

    path: str
    token: str
    body: str
    until: float


class SpoolReply(Struct, frozen=True):
    status: int
    body: str


_encode = msgspec.json.Encoder().encode
_reply = msgspec.json.Decoder(SpoolReply).decode


class SpoolClient(Client):
    """A client whose requests are files. `url`: `spool:///DIRECTORY`."""

    def __init__(
        self,
        url: str,
        token: Callable[..., str] | None = None,
        *,
        patience: Patience | None = None,
    ) -> None:
        """Raises AilurusError if no relay serves the directory."""
        super().__init__("http://localhost", token, patience=patience)
        self.url = url
        self._directory = Path(url.removeprefix(SCHEME))
        if not (self._directory / "ask").is_dir():
            raise AilurusError(
                f"{self._directory} is no relay's spool",
                remedy="start `harvester-edge relay`; nodes must see the site's `paths.shared`",
            )

    def _once(
        self, method: str, url: str, body: bytes | None, kind: str, wait_s: float, *, fresh: bool
    ) -> tuple[int, bytes]:
        name, path = secrets.token_hex(16), url.removeprefix(self.url)
        request, answer = (self._directory / way / name[0] / name for way in ("ask", "answer"))
        token = "" if self.token is None else self.token(fresh=fresh)
        end = time.time() + wait_s + SLACK_S
        pause = FIRST_S
        try:
            put(request, _encode(SpoolRequest(path, token, (body or b"{}").decode(), end)))
            while time.time() < end:
                self._sleep(pause)
                pause = min(pause * GROWTH, LONGEST_S)
                if (text := taken(answer)) is not None:
                    reply = _reply(text)
                    return reply.status, reply.body.encode()
            request.unlink(missing_ok=True)
        except OSError as error:
            raise urllib3.exceptions.HTTPError(f"{error.filename}: {error.strerror}") from None
        except msgspec.MsgspecError as error:
            raise urllib3.exceptions.HTTPError(f"an answer that is none: {error}") from None
        raise urllib3.exceptions.HTTPError(f"no relay answers in {self._directory}")


def put(path: Path, text: bytes) -> None:
    """Write a file that is complete as soon as it exists. Raises OSError."""
    draft = path.with_name(f".{path.name}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    draft.rename(path)


def taken(path: Path) -> bytes | None:
    """Read a file and remove it; None if it does not exist. Raises OSError."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    path.unlink()
    return text
