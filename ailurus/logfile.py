"""The file of a program's log."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

BYTES, KEPT = 50_000_000, 3
# Seconds between two looks whether the file is still in its place.
LOOK_S = 1.0


class LogFile(RotatingFileHandler):
    """A file that is rotated when it is long, and opened anew when another program has renamed or
    deleted it: nobody reads what is written to that one."""

    _look_at = 0.0

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=BYTES, backupCount=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        if record.created >= self._look_at or record.created < self._look_at - LOOK_S:
            self._look_at = record.created + LOOK_S
            if self.stream is not None and _is_moved(self.stream, Path(self.baseFilename)):
                self.stream.close()
                self.stream = None
        super().emit(record)


def _is_moved(file: IO[str], path: Path) -> bool:
    here = os.fstat(file.fileno())
    try:
        there = path.stat()
    except OSError:
        return True
    return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)
