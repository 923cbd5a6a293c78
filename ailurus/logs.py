"""Logs of all programs: JSON lines to a file, key=value to a terminal.

An event is a past-tense name, facts are keys: `log.info("job_started", job_id=7)`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from ailurus.protocol.shown import shown

AGAIN_S = 3600.0  # between two lines about the same trouble


class Log:
    """A logger with facts bound to it."""

    def __init__(self, name: str, **facts: Any) -> None:
        self._name = name
        self._logger = logging.getLogger(f"ailurus.{name}")
        self._facts = facts

    def bind(self, **facts: Any) -> Log:
        """The same logger, saying these facts each time."""
        return Log(self._name, **{**self._facts, **facts})

    def debug(self, event: str, **facts: Any) -> None:
        self._say(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: Any) -> None:
        self._say(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._say(logging.WARNING, event, facts)

    def error(self, event: str, *, trace: bool = False, **facts: Any) -> None:
        """`trace`: add the traceback of the exception being handled: for bugs of ours."""
        self._say(logging.ERROR, event, facts, trace=trace)

    def _say(self, level: int, event: str, facts: dict[str, Any], *, trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(
                level, event, exc_info=trace, extra={"facts": {**self._facts, **facts}}
            )


class Seldom:
    """Says what goes wrong when it begins or changes, and then once an hour."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._said: dict[str, tuple[str, float]] = {}

    def warning(self, event: str, what: str, **facts: object) -> None:
        now = time.monotonic()
        before, at = self._said.get(event, ("", 0.0))
        if what != before or now - at > AGAIN_S:
            self._said[event] = (what, now)
            self._log.warning(event, what=what, **facts)

    def over(self, event: str) -> bool:
        """That goes wrong no more. Whether it did."""
        return self._said.pop(event, None) is not None


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "log": record.name.removeprefix("ailurus."),
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["trace"] = shown(self.formatException(record.exc_info))
        return json.dumps(line, default=_text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = " ".join(f"{k}={v!r}" for k, v in _facts(record).items())
        line = f"{when} {record.levelname.lower():7} {record.getMessage()} {facts}".rstrip()
        return (
            f"{line}\n{shown(self.formatException(record.exc_info))}" if record.exc_info else line
        )


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """What is said of an event, the secrets of URLs taken out."""
    facts: dict[str, Any] = getattr(record, "facts", {})
    return {key: shown(one) if isinstance(one, str) else one for key, one in facts.items()}


def _text(thing: object) -> str:
    return shown(str(thing))


def to(path: Path | None = None, *, level: str = "info") -> None:
    """Send the logs of this process to `path` as JSON lines, else to stderr."""
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Text() if sys.stderr.isatty() else _Json())
    else:
        from ailurus.logfile import LogFile  # late: a pilot on stderr starts without it

        handler = LogFile(path)
        handler.setFormatter(_Json())
    root = logging.getLogger("ailurus")
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
