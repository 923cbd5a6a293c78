"""Which credentials movers have: the site's, or, in children of one job alone, its user's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ailurus import token_discovery
from ailurus.protocol.messages import Credential, CredentialKind
from pilot.blame import OSErrorsOn, Target
from pilot.site import Storage
from pilot.workdir import remove_tree

if TYPE_CHECKING:
    # Late at run time: most pilots need none of it.
    from pilot.process.children import Launch

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


def with_variables(launch: Launch, storage: Storage, credentials: Mapping[str, str]) -> Launch:
    """How movers start that have these `credentials` of a user: where the site's token is looked
    for, with the variables that say where; never where a user's is in its place."""
    if not storage.discovers or "token_file" in credentials:
        return launch
    sought = token_discovery.STARTED_WITH
    return replace(launch, environment={**launch.environment, **sought})


class CredentialFiles:
    """The user's credentials as files in a directory, by the options of movers that name such; the
    first of a kind counts. Blank: none, and the site's is not used."""

    def __init__(self, given: tuple[Credential, ...], folder: Path) -> None:
        """Raises JobError."""
        self._folder, self._given = folder, given
        kinds = {one.kind for one in given}
        # With a user's proxy goes no token of the site's, and the other way round.
        kinds |= _OF_THE_GRID if kinds & _OF_THE_GRID else set()
        self.named = {_FILES[kind]: "" for kind in sorted(kinds)}
        self._write(given)

    def renew(self, given: tuple[Credential, ...]) -> None:
        """Put newer ones in their place: movers read them for each file. Raises JobError."""
        if given != self._given:
            self._given = given
            self._write(given)

    def _write(self, given: tuple[Credential, ...]) -> None:
        with OSErrorsOn(Target.NODE, "cannot write the user's credentials for its mover"):
            # The first of a kind is written last.
            for one in reversed(given):
                path = self._folder / _FILES[one.kind]
                draft = path.with_suffix(".new")
                draft.touch(mode=0o600)
                draft.write_text(one.secret, encoding="ascii")
                draft.replace(path)
                self.named[_FILES[one.kind]] = str(path)


@contextmanager
def written(given: tuple[Credential, ...], folder: Path) -> Iterator[CredentialFiles]:
    """They lie in `folder` while the block runs. Raises JobError."""
    try:
        with OSErrorsOn(Target.NODE, "cannot write the user's credentials for its mover"):
            folder.mkdir(mode=0o700)
        yield CredentialFiles(given, folder)
    finally:
        remove_tree(folder)
