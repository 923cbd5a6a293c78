"""The output of a verb: aligned columns on a terminal, tab-separated ones in a pipe, JSON with
--json.

Texts come from jobs and sites, so nothing in them may steer a terminal.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

import msgspec

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_COLOUR = {
    "finished": "32", "running": "36", "starting": "36", "sent": "36", "holding": "36",
    "failed": "31", "cancelled": "33", "closed": "33", "never": "31", "lost": "31",
}  # fmt: skip


class Output:
    """The stream that a verb writes its answer to."""

    def __init__(self, *, as_json: bool = False, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stream = stream or sys.stdout
        self.terminal = self._stream.isatty()
        self._colour = self.terminal and "NO_COLOR" not in os.environ

    def document(self, answer: msgspec.Struct) -> None:
        """The whole answer as one JSON document."""
        content = msgspec.to_builtins(answer, str_keys=True)
        self._json({"schema": f"ailurus.v1.{type(answer).__name__}", **content})

    def record(self, answer: msgspec.Struct) -> None:
        """One of a stream of answers, as a line of JSON."""
        self._json(msgspec.to_builtins(answer, str_keys=True))

    def _json(self, content: object) -> None:
        self._stream.write(msgspec.json.encode(content).decode() + "\n")
        self._stream.flush()

    def line(self, text: str = "") -> None:
        """One line for people."""
        self._stream.write(clean(text) + "\n")
        self._stream.flush()

    def raw(self, text: str) -> None:
        """A payload's text: as it is into a pipe, harmless on a terminal."""
        self._stream.write(clean(text) if self.terminal else text)
        self._stream.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Rows under their columns."""
        cells = [[_flat(cell) for cell in row] for row in rows]
        if not self.terminal:
            self._stream.write("".join("\t".join(row) + "\n" for row in [list(columns), *cells]))
        else:
            widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
            head = _padded([column.upper() for column in columns], widths)
            self._stream.write((f"\x1b[1m{head}\x1b[0m" if self._colour else head) + "\n")
            for row in cells:
                self._stream.write(self._painted(row, _padded(row, widths)) + "\n")
        self._stream.flush()

    def csv(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Rows for a spreadsheet. A text that one would take for a formula is made a text by an
        apostrophe (OWASP, CSV injection): the name of a job must run nothing where a list is
        opened."""
        writer = csv.writer(self._stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_harmless(cell) for cell in row] for row in rows)
        self._stream.flush()

    def pairs(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names with values, one a line."""
        shown = [(name, _flat(value)) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(f"{name:<{width}}  {value}" if self.terminal else f"{name}\t{value}")

    def _painted(self, row: Sequence[str], text: str) -> str:
        if self._colour:
            for cell in row:
                if colour := _COLOUR.get(cell):
                    return re.sub(rf"\b{cell}\b", f"\x1b[{colour}m{cell}\x1b[0m", text, count=1)
        return text


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def clean(text: str) -> str:
    """`text` with what could steer a terminal made visible (tab and newline stay)."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    text = clean(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "|", "%")) else text


def _flat(value: object) -> str:
    text = "-" if value in (None, "") else str(value)
    return clean(text).replace("\n", "\\n").replace("\t", " ")


def ago(then: float | None, now: float | None = None) -> str:
    """How long ago, for people: 12s, 5m, 3h, 2d."""
    if then is None or then <= 0:
        return "-"
    return span(max(0.0, (time.time() if now is None else now) - then))


def span(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"


def clock(at: float | None) -> str:
    """A time in the local zone."""
    if not at:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
