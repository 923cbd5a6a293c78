"""The file that a program's log goes to."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

BYTES, KEPT = 50_000_000, 3
LOOK_S = 1.0  # between two looks whether the log is still where it was


class LogFile(RotatingFileHandler):
    """A file that is rotated when it is long, and opened anew when somebody else has moved it away: who
    keeps writing to a file that was renamed, or deleted, writes for nobody."""

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
