"""How long a thread keeps Python's interpreter while the event loop waits for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

USUAL_S = 0.0005
SHORT_S = 0.0001
"""While threads prepare and store a large submission: the event loop takes the interpreter twice for
a heartbeat, and waits an interval each time. It costs more switches, so not always."""
_short = 0


def usual_interval() -> None:
    """Set the interval of this process."""
    sys.setswitchinterval(USUAL_S)


@contextmanager
def short_interval() -> Iterator[None]:
    """The short interval while the block runs. For the event loop alone, which has one thread."""
    global _short  # noqa: PLW0603 - the interpreter has one interval
    _short += 1
    sys.setswitchinterval(SHORT_S)
    try:
        yield
    finally:
        _short -= 1
        if not _short:
            sys.setswitchinterval(USUAL_S)
