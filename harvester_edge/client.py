"""The HTTP client of a site: its credential file, and whom it believes to be its dispatcher."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ailurus.paths import expanded
from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile, Trust
from ailurus.wire.retry import Patience
from harvester_edge.owned import token_remedy
from harvester_edge.site import Site

# A cycle does not wait long for a dispatcher: it goes on without one.
PATIENCE = Patience(total_s=3.0, first_s=0.2, longest_s=1.0)


def client(
    site: Site,
    *,
    patience_s: float = PATIENCE.total_s,
    headers: Mapping[str, str] | None = None,
    stale: tuple[int, ...] = (401,),
) -> Client:
    """A client with the edge's own token, retrying for `patience_s`. `stale`: status codes by which
    the server says that a token has expired. Raises AilurusError if the token file is not
    private."""
    return Client(
        site.dispatcher.url,
        TokenFile(private(Path(expanded(site.dispatcher.token_file)))),
        patience=msgspec.structs.replace(PATIENCE, total_s=patience_s),
        trust=trust(site),
        headers=dict(headers or {}),
        stale=stale,
    )


def trust(site: Site) -> Trust:
    """By what the site knows its dispatcher: a CA file, a pinned key."""
    ca = expanded(site.dispatcher.ca) if site.dispatcher.ca else ""
    return Trust(ca, site.dispatcher.pin or "")


def private(path: Path, field: str = "dispatcher.token_file", scope: str = "edge") -> Path:
    """The path of a credential file. Raises AilurusError if somebody else can read it or put
    another in its place."""
    try:
        found = path.lstat()
    except OSError as error:
        raise AilurusError(
            f"cannot read {path}: {error.strerror}",
            field=field,
            remedy=token_remedy(scope),
        ) from None
    if stat.S_ISLNK(found.st_mode):
        raise AilurusError(f"{path} is a symbolic link", field=field, remedy="name the file itself")
    if found.st_mode & 0o007:
        raise AilurusError(f"others can use {path}", field=field, remedy=f"chmod 600 {path}")
    return path
