"""How structlog makes a line of the log. Only `ailurus.logs` imports this, with the first line."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import structlog
from structlog.processors import JSONRenderer, format_exc_info
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, Processor

from ailurus.protocol.shown import shown


def bound(logger: logging.Logger, fields: Mapping[str, Any]) -> BoundLogger:
    """A structlog logger that writes to `logger`, with `fields` in each line."""
    made: BoundLogger = structlog.get_logger(logger).bind(**fields)
    return made


@cache
def formatter(*, for_terminal: bool) -> ProcessorFormatter:
    """A formatter for lines of ours and of libraries."""
    render: list[Processor] = [_ordered, JSONRenderer()]
    if for_terminal:
        render = [_terminal_line]
    return ProcessorFormatter(processors=render, foreign_pre_chain=_PREPARE)


def _without_secrets(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Take the secrets of URLs out of all fields. Keys that begin with `_` are structlog's own."""
    return {key: value if key[:1] == "_" else _safe(value) for key, value in line.items()}


def _safe(value: Any) -> Any:
    """The value of a field as it is shown. No value makes the caller of a logger fail: one may have
    itself inside, be changed by another thread, or have no text."""
    try:
        return _shown(value)
    except Exception:  # noqa: BLE001
        return f"a {type(value).__name__} that cannot be shown"


def _shown(value: Any) -> Any:
    """A field's value of JSON's kinds, without the secrets of URLs at any depth. What JSON does not
    know, as an exception or a path, is its text."""
    if isinstance(value, str):
        return shown(value)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _shown(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(one) for one in value]
    return shown(str(value))


def _key(key: Any) -> Any:
    """The key of a mapping, which JSON knows."""
    return key if key is None or isinstance(key, int | float) else shown(str(key))


def _ordered(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """A line's keys: time, level, log, event, the fields, and the trace at the end."""
    record: logging.LogRecord = line["_record"]
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    ordered = {
        "time": f"{second}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "log": record.name.removeprefix("ailurus."),
        "event": line["event"],
        **_fields(line),
    }
    if "exception" in line:
        ordered["trace"] = line["exception"]
    return ordered


def _terminal_line(_logger: Any, _method: str, line: EventDict) -> str:
    # Late: no pilot has a terminal.
    from ailurus.output import clean

    record: logging.LogRecord = line["_record"]
    second = time.strftime("%H:%M:%S", time.localtime(record.created))
    fields = " ".join(f"{key}={value!r}" for key, value in _fields(line).items())
    text = f"{second} {record.levelname.lower():7} {line['event']} {fields}".rstrip()
    # A library's text and an exception's may be another program's: they must not steer a terminal.
    return clean(f"{text}\n{line['exception']}" if "exception" in line else text)


def _fields(line: EventDict) -> dict[str, Any]:
    own = ("event", "exception", "_record", "_from_structlog")
    return {key: value for key, value in line.items() if key not in own}


# What happens to a line before it is a record of the standard library, and to a library's record.
_PREPARE: list[Processor] = [format_exc_info, _without_secrets]
structlog.configure(
    processors=[*_PREPARE, ProcessorFormatter.wrap_for_formatter],
    wrapper_class=BoundLogger,
    logger_factory=lambda logger: logger,
)
