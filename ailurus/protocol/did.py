"""Data identifiers of Rucio, `scope:name`: of a file, a data set or a container.

As a URL one is written `rucio://scope:name`; `?rse=RSE` names the storage where a file is, or goes.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote

from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.url import Url

SCHEME: Final = "rucio"
LONGEST_NAME: Final = 250
_SCOPE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,24}"
_NAME: Final = r"/?[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]+)*"
_RSE: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}"
_FORM_OF_NAME: Final = "letters, digits, _ . - and single /, at most 250 of them"
Scope = Annotated[
    str,
    Meta(
        max_length=25,
        pattern=rf"^({_SCOPE})?(?!\n)$",
        description="letters, digits, _ . and -, at most 25 of them",
    ),
]
"""A scope of Rucio; blank: none."""
DidText = Annotated[
    str,
    Meta(
        max_length=LONGEST_NAME + 26,
        pattern=rf"^({_SCOPE}:{_NAME})?(?!\n)$",
        description="scope:name",
    ),
]
"""`scope:name` on the wire; blank: none."""
Mark = Annotated[
    str, Meta(max_length=16, pattern=r"^[a-z]*(?!\n)$", description="lower-case letters")
]
"""Of a dispatcher's store, as `store_mark` makes it; blank: none."""


class Did(Struct, frozen=True, gc=False):
    """What Rucio's catalogue calls a file, a data set or a container."""

    scope: str
    name: str

    @staticmethod
    def parse(text: str) -> Did:
        """The identifier in `scope:name`. Raises AilurusError."""
        scope, colon, name = text.partition(":")
        if not colon:
            raise AilurusError(f"{text!r} has no scope", remedy="write scope:name")
        if not re.fullmatch(_SCOPE, scope):
            raise AilurusError(
                f"{scope!r} is no scope of Rucio",
                remedy="letters, digits, _ . and -, at most 25 of them",
            )
        if not re.fullmatch(_NAME, name) or len(name) > LONGEST_NAME or _climbs(name):
            raise AilurusError(f"{name!r} is no name in Rucio", remedy=_FORM_OF_NAME)
        return Did(scope, name)

    @staticmethod
    def of_url(url: Url) -> Did:
        """The identifier in `rucio://scope:name`. Raises AilurusError."""
        if url.scheme != SCHEME or url.userinfo is not None or url.port is not None:
            raise AilurusError(f"{url} names nothing in Rucio", remedy="write rucio://scope:name")
        return Did.parse(url.host + url.path)

    def url(self, rse: str = "") -> Url:
        """`rucio://scope:name`, at a storage or wherever it is."""
        query = f"rse={quote(rse, safe='')}" if rse else None
        return Url(SCHEME, self.scope, f":{self.name}", query=query)

    def __str__(self) -> str:
        return f"{self.scope}:{self.name}"


def rse_of(url: Url) -> str:
    """The storage that a Rucio URL names; blank: none. Raises AilurusError for another query."""
    words = dict(parse_qsl(url.query or "", keep_blank_values=True))
    rse = words.get("rse")
    # It becomes part of a path when Rucio is asked about it.
    odd = rse is not None and not re.fullmatch(_RSE, rse)
    if url.fragment is not None or set(words) - {"rse"} or odd:
        raise AilurusError(f"{url} has more than Rucio knows", remedy="rucio://scope:name?rse=RSE")
    return rse or ""


def store_mark(store: str) -> str:
    """Eight letters that stand for a dispatcher's store in the names of its jobs' outputs, so that
    two stores in one scope of Rucio use no name twice."""
    # Late: it loads OpenSSL, of which an agent and every guardian would have a megabyte.
    import hashlib

    digest = hashlib.sha256(store.encode()).digest()
    return "".join(chr(ord("a") + byte % 26) for byte in digest[:8])


def physical(scope: str, job_id: int, attempt_nr: int, name: str, mark: str = "") -> Did:
    """What an attempt's output is called in Rucio: it carries store, job and attempt, so that no
    attempt overwrites another's file. `mark`: of the store; blank where its dispatcher is of a
    version that gives none."""
    numbered = f"{job_id}.{attempt_nr}.{name}"
    return Did(scope, f"{mark}.{numbered}" if mark else numbered)


def _climbs(name: str) -> bool:
    return any(segment in (".", "..") for segment in name.split("/"))
