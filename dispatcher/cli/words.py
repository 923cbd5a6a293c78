"""What words on the command line mean; one that means nothing is wrong usage, and never a trace."""

from __future__ import annotations

import math
import re
import time
from argparse import ArgumentTypeError
from datetime import datetime

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s


def span(text: str) -> float:
    """Seconds. Raises ArgumentTypeError."""
    try:
        return duration_s(text)
    except AilurusError as error:
        raise ArgumentTypeError(str(error)) from None


_NUMBER = re.compile(r"[0-9]{9,12}(\.[0-9]{1,9})?")


def moment(text: str) -> float:
    """Seconds since 1970 of a time: as the tables write it, in the local zone (`2026-11-30 20:15`),
    or in RFC 3339; of so long ago (`90m`); or as they are. Raises ArgumentTypeError."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        return max(0.0, time.time() - duration_s(text))
    except AilurusError:
        raise ArgumentTypeError(
            f"{text!r} is no time (write 2026-11-30 20:15, 2026-11-30T20:15:00Z or, for so long "
            "ago, 90m)"
        ) from None


def some_time(text: str) -> float:
    """Seconds, more than none: a lease of 0 s has run out when it begins. Raises
    ArgumentTypeError."""
    seconds = span(text)
    if seconds <= 0:
        raise ArgumentTypeError(f"{text!r} is no time at all (write 10s, say)")
    return seconds


def rate(text: str) -> float:
    """So many a second; 0: any number. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of requests a second (write 50, say)")
    return number


def job_id(text: str) -> int:
    """The number of a job. Raises ArgumentTypeError."""
    return _number(text, "a job (see `dispatcher jobs`)")


def action_id(text: str) -> int:
    """The number of an action. Raises ArgumentTypeError."""
    return _number(text, "an action (`dispatcher cancel` said it; see `dispatcher show JOB`)")


def _number(text: str, whose: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 19):
        raise ArgumentTypeError(f"{text!r} is no number of {whose}")
    return int(text)


def item_id(text: str) -> tuple[int, int | None]:
    """The number of a job, or of one of its items as JOB.ITEM. Raises ArgumentTypeError."""
    job, dot, item = text.partition(".")
    if not dot:
        return job_id(job), None
    if not (item.isascii() and item.isdigit() and 0 < len(item) < 10):
        raise ArgumentTypeError(f"{item!r} is no number of an item of job {job}")
    return job_id(job), int(item)
