"""Which dispatcher to talk to, and with which token.

The token comes from --token-file, AILURUS_TOKEN_FILE, then by WLCG bearer token discovery; never
from an option, which others could see in the process list.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dispatcher.cli.exits import CONFIGURATION, Fault

if TYPE_CHECKING:
    from ailurus.wire.client import Client

DEFAULT_URL = "http://127.0.0.1:8080"


def url_of(args: Namespace) -> str:
    """The dispatcher's address."""
    return str(args.url or os.environ.get("AILURUS_URL") or DEFAULT_URL).rstrip("/")


def connect(args: Namespace, *, patience_s: float = 5.0) -> Client:
    """A client for the verb. `patience_s`: how long to try while nobody answers."""
    from ailurus.wire.client import Client, TokenFile, Trust, fixed_token
    from ailurus.wire.retry import Patience

    path, text = found_token(args.token_file, os.environ)
    token: Callable[..., str] = fixed_token(text) if path is None else TokenFile(path)
    trust = Trust.told(args.ca, args.pin, os.environ)
    return Client(url_of(args), token, patience=Patience(total_s=patience_s), trust=trust)


def found_token(option: str | None, environment: Mapping[str, str]) -> tuple[Path | None, str]:
    """The token's file, or its text. Raises Fault when there is none."""
    if option:
        return Path(option), ""
    if named := environment.get("AILURUS_TOKEN_FILE"):
        return Path(named), ""
    if text := environment.get("BEARER_TOKEN", "").strip():
        return None, text
    if named := environment.get("BEARER_TOKEN_FILE"):
        return Path(named), ""
    name = f"bt_u{os.getuid()}"
    for directory in (environment.get("XDG_RUNTIME_DIR"), "/tmp"):  # noqa: S108 -- WLCG's place
        if directory and _ours(path := Path(directory, name)):
            return path, ""
    raise Fault(
        CONFIGURATION,
        "no token found",
        remedy="give --token-file FILE, or set AILURUS_TOKEN_FILE; `dispatcher init` made the first",
    )


def _ours(path: Path) -> bool:
    """Whether the file is there and this user's: anybody may write to /tmp."""
    try:
        return path.lstat().st_uid == os.getuid() and path.is_file()
    except OSError:
        return False
