"""`text://anything/WORDS`: a file whose content is the last part of its own URL."""

from __future__ import annotations

import hashlib
import os
import zlib

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import Check, Copied, JobError


class Text:
    """Reads such URLs, and writes none."""

    def __init__(self, **site: object) -> None:
        """`site`: what the site file says about storage, of which this needs nothing."""

    def allowed(self, url: Url) -> None:
        """Every such URL is, since it leads nowhere."""

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        check()
        content = str(url).rpartition("/")[2].encode()
        os.write(into, content)
        return Copied(
            size=len(content),
            adler32=f"{zlib.adler32(content):08x}",
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest() if md5 else None,
        )

    def put(self, source: int, url: Url, check: Check) -> Copied:
        raise JobError(Code.STORAGE_FORBIDDEN, f"{url} can only be read", transient=False)

    def delete(self, url: Url) -> None:
        """There is nothing to remove."""
