"""The result document of a job: a little JSON that its payload leaves, for people and planners."""

from __future__ import annotations

import msgspec

MOST_BYTES = 65_536


class NoResult(ValueError):
    """A text that is no result document, and why."""


def canonical(text: bytes) -> str:
    """A result document in one form: JSON of at most `MOST_BYTES`, without blanks, and with the
    last of several values under one name. Raises NoResult."""
    if len(text) > MOST_BYTES:
        raise NoResult(f"it has {len(text)} bytes, of at most {MOST_BYTES}")
    try:
        found = msgspec.json.encode(msgspec.json.decode(text)).decode()
    # Depth; whole numbers of more than 64 bits; half of a pair of surrogates.
    except (msgspec.MsgspecError, RecursionError, OverflowError, UnicodeError) as error:
        raise NoResult(f"it is no JSON: {error}") from None
    if len(found) > MOST_BYTES:
        raise NoResult(f"it has {len(found)} bytes, of at most {MOST_BYTES}")
    return found
