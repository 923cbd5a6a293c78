"""Movers that have a user's credentials, and not the site's: children of one job alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ailurus.protocol.messages import Credential, CredentialKind
from pilot.blame import OSErrorsOn, Target
from pilot.workdir import remove_tree

_FILES = {
    CredentialKind.TOKEN: "token_file",
    CredentialKind.PROXY: "proxy",
    CredentialKind.KEYS: "keys_file",
}
_OF_THE_GRID = {CredentialKind.TOKEN, CredentialKind.PROXY}


def of_the_grid(given: tuple[Credential, ...]) -> tuple[str, str]:
    """The token and the proxy that a user gave for the files that the pilot moves itself; both
    blank: they are moved as the site."""
    token, proxy = (
        next((one.secret for one in given if one.kind is kind), "")
        for kind in (CredentialKind.TOKEN, CredentialKind.PROXY)
    )
    return token, proxy


@contextmanager
def written(given: tuple[Credential, ...], folder: Path) -> Iterator[dict[str, str]]:
    """The user's credentials as files in `folder` while the block runs, by the options of movers
    that name such; the first of a kind counts. Blank: none, and the site's is not used. Raises
    JobError."""
    kinds = {one.kind for one in given}
    # With a user's proxy goes no token of the site's, and the other way round.
    kinds |= _OF_THE_GRID if kinds & _OF_THE_GRID else set()
    named = {_FILES[kind]: "" for kind in sorted(kinds)}
    try:
        with OSErrorsOn(Target.NODE, "cannot write the user's credentials for its mover"):
            folder.mkdir(mode=0o700)
            for one in given:
                option = _FILES[one.kind]
                if not named[option]:
                    path = folder / option
                    path.touch(mode=0o600)
                    path.write_text(one.secret, encoding="ascii")
                    named[option] = str(path)
        yield named
    finally:
        remove_tree(folder)
