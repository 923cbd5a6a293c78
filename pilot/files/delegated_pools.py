"""Movers that have a user's credentials, and not the site's: children of one job alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ailurus.protocol.did import SCHEME as RUCIO
from ailurus.protocol.messages import Credential, CredentialKind
from pilot.blame import OSErrorsOn, Target
from pilot.workdir import remove_tree

TAKE_CREDENTIALS = ("gfal2", "xrootd")
"""Movers whose options name a token and a proxy by file. Rucio's moves files by these; the
catalogue is asked as the site."""
_OPTIONS = {CredentialKind.TOKEN: "token_file", CredentialKind.PROXY: "proxy"}


@contextmanager
def written(given: tuple[Credential, ...], folder: Path) -> Iterator[dict[str, str]]:
    """Options that name the user's credentials, which are files in `folder` while the block runs.
    The first of a kind counts; the site's of the other kind is not used. Raises JobError."""
    named: dict[str, str] = dict.fromkeys(_OPTIONS.values(), "")
    try:
        with OSErrorsOn(Target.NODE, "cannot write the user's credentials for its mover"):
            folder.mkdir(mode=0o700)
            for one in given:
                option = _OPTIONS[one.kind]
                if not named[option]:
                    path = folder / option
                    path.touch(mode=0o600)
                    path.write_text(one.secret, encoding="ascii")
                    named[option] = str(path)
        yield named
    finally:
        remove_tree(folder)


def with_credentials(
    name: str, options: Mapping[str, Any], named: Mapping[str, str]
) -> dict[str, Any]:
    """The options of mover `name` with the user's credentials in place of the site's."""
    if name in TAKE_CREDENTIALS:
        return {**options, **named}
    if name == RUCIO:
        below = {one: {**options["options"].get(one, {}), **named} for one in TAKE_CREDENTIALS}
        # An http transfer has no proxy.
        token = {"token_file": named["token_file"]}
        below["http"] = {**options["options"].get("http", {}), **token}
        return {**options, "options": {**options["options"], **below}}
    return dict(options)
