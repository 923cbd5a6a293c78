"""How long a thread keeps Python's interpreter while the event loop waits for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

TURN_S = 0.0005
SHORT_TURN_S = 0.0001
"""While threads prepare and store a large submission: the event loop takes the interpreter twice for
a heartbeat, and waits a turn each time. It costs more switches, so not always."""
_short = 0


def usual_turns() -> None:
    """Set the length of turns for this process."""
    sys.setswitchinterval(TURN_S)


@contextmanager
def short_turns() -> Iterator[None]:
    """Short turns while the block runs. For the event loop alone, which has one thread."""
    global _short  # noqa: PLW0603 - the interpreter has one interval
    _short += 1
    sys.setswitchinterval(SHORT_TURN_S)
    try:
        yield
    finally:
        _short -= 1
        if not _short:
            sys.setswitchinterval(TURN_S)
