"""Credentials that a job grants to its payload: files in the payload's /tmp, which no log and no
output has, and the variables by which programs find them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping

from ailurus.beneath import DIRECTORY
from ailurus.protocol.messages import Credential, CredentialKind
from pilot.blame import OSErrorsOn, Target
from pilot.workdir import Workdir

FOLDER = "ailurus-credentials"
VARIABLES = {
    CredentialKind.TOKEN: "BEARER_TOKEN_FILE",
    CredentialKind.PROXY: "X509_USER_PROXY",
    CredentialKind.KEYS: "AWS_SHARED_CREDENTIALS_FILE",
}
"""WLCG bearer token discovery, and what every grid client reads. The first of a kind has them."""
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def granted(given: Iterable[Credential]) -> list[Credential]:
    """Those that the payload gets."""
    return [one for one in given if one.payload]


def variables(given: Iterable[Credential], tmp: str) -> Mapping[str, str]:
    """What the payload's environment says of its credentials. `tmp`: where its /tmp is for it."""
    found: dict[str, str] = {}
    for one in granted(given):
        found.setdefault(VARIABLES[one.kind], f"{tmp}/{FOLDER}/{one.name}")
    return found


def write(given: Iterable[Credential], work: Workdir) -> None:
    """Write the payload's credentials, in place of those that it has by now. Follows no link that
    the payload may have made. Raises JobError."""
    if not (files := granted(given)):
        return
    with OSErrorsOn(Target.NODE, "cannot write the payload's credentials"):
        folder = work.tmp / FOLDER
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700)
        directory = os.open(folder, DIRECTORY)
        try:
            for one in files:
                _replace(one.name, one.secret, directory)
        finally:
            os.close(directory)


def _replace(name: str, text: str, directory: int) -> None:
    draft = f".{secrets.token_hex(8)}"
    with os.fdopen(os.open(draft, _FLAGS, 0o600, dir_fd=directory), "w", encoding="ascii") as file:
        file.write(text)
    os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
