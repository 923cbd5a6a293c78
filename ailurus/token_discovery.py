"""WLCG bearer token discovery: where programs look for a token whose file nobody names to them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from ailurus.protocol.errors import AilurusError

DISCOVERED = "wlcg-discovery"
"""What a site file says as `token_file` instead of a path: look for the token anew at each use."""
_TEXT, _FILE, _RUNTIME = "BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"


class FoundToken(NamedTuple):
    """A token: its file, or, where that is blank, its text."""

    path: str = ""
    text: str = ""


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What an environment says of a token, for processes that work in other directories."""
    found = {name: environment[name] for name in (_TEXT, _FILE, _RUNTIME) if environment.get(name)}
    if _FILE in found:
        found[_FILE] = os.path.abspath(found[_FILE])  # noqa: PTH100  text in, text out
    return found


STARTED_WITH: Mapping[str, str] = variables(os.environ)
"""Of this process, before a mover sets its environment for its libraries."""


def places(environment: Mapping[str, str]) -> list[str]:
    """The files that are looked at, the first first, whether they are there or not."""
    named = [environment[_FILE]] if environment.get(_FILE) else []
    return named + _usual(environment)


def discovered(environment: Mapping[str, str]) -> FoundToken:
    """The token of this process's user. What a variable names counts, whatever it is; in the usual
    places a file does that is the user's own and no link: anybody may write to /tmp. Raises
    AilurusError, which says where it looked."""
    if text := environment.get(_TEXT, "").strip():
        return FoundToken(text=text)
    if named := environment.get(_FILE):
        return FoundToken(named)
    looked = [f"{_TEXT} and {_FILE} are not set"]
    for path in _usual(environment):
        if not (wrong := _wrong(path)):
            return FoundToken(path)
        looked.append(f"{path} {wrong}")
    raise AilurusError(
        f"WLCG discovery finds no token: {', '.join(looked)}",
        remedy="have htgettoken or oidc-agent write one, as this user and on this machine",
    )


def of_site(token_file: str) -> FoundToken:
    """What a site means by `token_file`: its path, or what is found now. Raises AilurusError."""
    if token_file != DISCOVERED:
        return FoundToken(token_file)
    token = discovered(STARTED_WITH)
    if token.path and not os.access(token.path, os.R_OK):
        raise AilurusError(
            f"WLCG discovery finds the token {token.path}, which cannot be read",
            remedy=f"is what {_FILE} names there, and this user's?",
        )
    if token.text and not (token.text.isascii() and token.text.isprintable()):
        raise AilurusError(f"there is no token in {_TEXT}", remedy="set it to a token, or not")
    return token


def _usual(environment: Mapping[str, str]) -> list[str]:
    directories = (environment.get(_RUNTIME), "/tmp")  # noqa: S108 -- WLCG's place
    return [f"{one}/bt_u{os.getuid()}" for one in directories if one]


def _wrong(path: str) -> str:
    """Why a file is no token of ours; blank: it may be one."""
    try:
        found = os.lstat(path)
    # ValueError: half a character in it.
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        return "is not there" if missing else "cannot be looked at"
    if found.st_uid != os.getuid():
        return "is another user's"
    return "" if stat.S_ISREG(found.st_mode) else "is no file but a link or the like"
