"""Logs of all programs, by structlog: JSON lines to a file, key=value to a terminal.

An event is a past-tense name with fields: `log.info("job_started", job_id=7)`.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from structlog.stdlib import BoundLogger

# Seconds between two lines about the same lasting trouble.
REPEAT_S = 3600.0


class Log:
    """A structlog logger with a name and fields bound to it, made with the first line it writes.

    So a command that logs nothing starts without structlog (docs/decisions/0247).
    """

    def __init__(self, name: str, **fields: Any) -> None:
        self._name = name
        self._fields = _renamed(fields)
        self._stdlib = logging.getLogger(f"ailurus.{name}")
        self._bound: BoundLogger | None = None

    def bind(self, **fields: Any) -> Log:
        """The same logger with more fields in each line."""
        return Log(self._name, **{**self._fields, **fields})

    def debug(self, event: str, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, trace: bool = False, **fields: Any) -> None:
        """`trace`: add the traceback of the exception being handled: for bugs of ours."""
        if trace:
            fields["exc_info"] = True
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._stdlib.isEnabledFor(level):
            return
        if self._bound is None:
            self._bound = _log_lines().bound(self._stdlib, self._fields)
        self._bound.log(level, event, **_renamed(fields))


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields without one called `level`, which each line has of its own: it becomes `level_`."""
    if "level" not in fields:
        return fields
    return {("level_" if name == "level" else name): value for name, value in fields.items()}


class ThrottledLog:
    """Warns of a lasting trouble when it begins or changes, and then once an hour."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._warned: dict[str, tuple[str, float]] = {}

    def warning(self, event: str, what: str, **fields: object) -> None:
        """Warn of `event`; another `what` is a change."""
        now = time.monotonic()
        before, at = self._warned.get(event, ("", 0.0))
        if what != before or now - at > REPEAT_S:
            self._warned[event] = (what, now)
            self._log.warning(event, what=what, **fields)

    def resolved(self, event: str) -> bool:
        """Forget that trouble: its next warning is a new one. Whether there was any."""
        return self._warned.pop(event, None) is not None


def configure(path: Path | None = None, *, level: str = "info") -> None:
    """Write the logs of this process to `path` as JSON lines, else to stderr.

    Libraries that log by the standard library join in with their warnings. Raises OSError when
    `path` cannot be opened.
    """
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
        for_terminal = sys.stderr.isatty()
    else:
        # Late: a pilot on stderr starts without it.
        from ailurus.logfile import LogFile

        handler = LogFile(path)
        for_terminal = False
    handler.setFormatter(_LateFormatter(for_terminal=for_terminal))
    deconfigure()
    logging.getLogger().addHandler(handler)
    logging.getLogger("ailurus").setLevel(level.upper())


def deconfigure() -> None:
    """Write the logs of this process nowhere any more."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler.formatter, _LateFormatter):
            root.removeHandler(handler)
            handler.close()


class _LateFormatter(logging.Formatter):
    """structlog's formatter, made with the first line."""

    def __init__(self, *, for_terminal: bool) -> None:
        super().__init__()
        self._for_terminal = for_terminal

    def format(self, record: logging.LogRecord) -> str:
        formatter: logging.Formatter = _log_lines().formatter(for_terminal=self._for_terminal)
        return formatter.format(record)


@cache
def _log_lines() -> ModuleType:
    """The module that uses structlog, loaded without rich.

    structlog loads rich where that is installed, for a renderer that is not used here; that costs a
    pilot three times as much as all else of structlog, in time and in memory.
    """
    absent = "rich" not in sys.modules
    if absent:
        # None makes an import of that name fail.
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        from ailurus import log_lines
    finally:
        if absent:
            # Another thread that logs its first line may have been faster.
            sys.modules.pop("rich", None)
    return log_lines
