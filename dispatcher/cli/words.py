"""What words on the command line mean; one that means nothing is wrong usage, and never a trace."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s


def span(text: str) -> float:
    """Seconds. Raises ArgumentTypeError."""
    try:
        return duration_s(text)
    except AilurusError as error:
        raise ArgumentTypeError(str(error)) from None


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
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 19):
        raise ArgumentTypeError(f"{text!r} is no number of a job (see `dispatcher jobs`)")
    return int(text)


def item_id(text: str) -> tuple[int, int | None]:
    """The number of a job, or of one of its items as JOB.ITEM. Raises ArgumentTypeError."""
    job, dot, item = text.partition(".")
    if not dot:
        return job_id(job), None
    if not (item.isascii() and item.isdigit() and 0 < len(item) < 10):
        raise ArgumentTypeError(f"{item!r} is no number of an item of job {job}")
    return job_id(job), int(item)
