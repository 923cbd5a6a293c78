"""Size and checksums of a file, taken while it passes by."""

from __future__ import annotations

import zlib
from hashlib import md5 as new_md5

from pilot.ports import Copied


class Checksums:
    """Of the pieces that were added so far, in their order."""

    def __init__(self, *, md5: bool = False) -> None:
        self.size, self._adler32 = 0, 1
        self._md5 = new_md5(usedforsecurity=False) if md5 else None

    def add(self, piece: bytes | memoryview) -> None:
        """Add the next piece of the file."""
        self.size += len(piece)
        self._adler32 = zlib.adler32(piece, self._adler32)
        if self._md5 is not None:
            self._md5.update(piece)

    @property
    def copied(self) -> Copied:
        """What was measured; adler32 in eight digits, md5 if it was asked for."""
        md5 = None if self._md5 is None else self._md5.hexdigest()
        return Copied(size=self.size, adler32=f"{self._adler32:08x}", md5=md5)
