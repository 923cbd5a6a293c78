"""Sizes and durations as people write them: `4GiB`, `4096M`, `90m`, `1-12:00:00`."""

from __future__ import annotations

import re

from ailurus.protocol.errors import AilurusError

_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
_FACTOR = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_CLOCK = re.compile(r"\s*(?:(\d{1,9})-)?(\d{1,9}):(\d\d):(\d\d)\s*")
_SPAN = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*(s|m|h|d)?\s*")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def size_bytes(text: str | int) -> int:
    """Bytes of a size. A plain number is bytes; `K M G T` count in 1024s, as Slurm and PBS do.

    Raises AilurusError.
    """
    found = _SIZE.fullmatch(str(text))
    if found is None:
        raise AilurusError(
            f"{text!r} is not a size", remedy="write 500M, 4GiB or a number of bytes"
        )
    number, letter, _ = found.groups()
    return int(float(number) * 1024 ** _FACTOR[letter.upper()])


def size_mb(text: str | int) -> int:
    """Mebibytes of a size, rounded up. A plain number is MB already, the unit of PanDA's
    minRamCount.

    Raises AilurusError.
    """
    if isinstance(text, int):
        return text
    if (word := str(text).strip()).isdecimal() and len(word) <= 20:
        return int(word)
    if _SIZE.fullmatch(word) is None:
        raise AilurusError(f"{text!r} is not a size", remedy="write 500M, 4GiB or a number of MiB")
    return -(-size_bytes(text) // 1024**2)


def duration_s(text: str | float) -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1d`, `12:00:00` or Slurm's `1-12:00:00`.

    Raises AilurusError.
    """
    if isinstance(text, int | float):
        return float(text)
    if found := _CLOCK.fullmatch(str(text)):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if span := _SPAN.fullmatch(str(text)):
        return float(span[1]) * _SECONDS[span[2]]
    raise AilurusError(f"{text!r} is not a duration", remedy="write 90m, 2h or 1-12:00:00")


def lease_fault(beat_s: float, lease_s: float) -> str:
    """Why no node would be kept whose agent's lease lasts so long, and whose beats are so far
    apart; empty: it would."""
    if beat_s <= 0:
        return "an agent cannot beat without a pause"
    if lease_s < 2 * beat_s:
        return f"a lease of {lease_s:g} s is over before a second beat of {beat_s:g} s is answered"
    return ""
