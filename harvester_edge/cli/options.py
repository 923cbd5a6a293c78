"""Values of options. What is wrong with one is a sentence and sysexits' code, as for a wrong
option."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from harvester_edge.cli.exits import CannotCreate


def seconds(text: str) -> float:
    """A duration that is not nothing. Raises ArgumentTypeError."""
    try:
        found = duration_s(text)
    except AilurusError as error:
        raise ArgumentTypeError(str(error)) from None
    if not found:
        raise ArgumentTypeError(f"{text!r} is no time at all (write 10s, say)")
    return found


def address(text: str) -> str:
    """HOST:PORT to listen at. Raises ArgumentTypeError."""
    port = text.rpartition(":")[2]
    if not (port.isascii() and port.isdecimal() and int(port[:9]) < 65536 and len(port) < 6):
        raise ArgumentTypeError(f"{text!r} is no address (write 127.0.0.1:9108, say)")
    return text


def count(text: str) -> int:
    """How many, at least one; of a billion and more, a billion: the store counts no further. Raises
    ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and text.strip("0")):
        raise ArgumentTypeError(f"{text!r} is no number of things (write 10, say)")
    return min(int(text[:19]), 10**9)


def log_to(file: Path | None, level: str) -> None:
    """Send this process's log to the option's file. Raises CannotCreate."""
    from ailurus import logs

    try:
        logs.configure(file, level=level)
    except OSError as error:
        raise CannotCreate(
            f"cannot write the log {file}: {error.strerror}",
            field="--log",
            remedy="another --log FILE",
        ) from None
