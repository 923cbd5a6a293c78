"""When to try again: exponential back-off with full jitter, under a deadline. No clock of its
own."""

from __future__ import annotations

import random
from collections.abc import Iterator

from msgspec import Struct

# The longest pause of a pilot whose dispatcher does not answer.
LONGEST_BACKOFF_S = 15.0


class Patience(Struct, frozen=True, kw_only=True):
    """How long to keep trying. `total_s` = 0: one try."""

    total_s: float = 60.0
    first_s: float = 0.2
    longest_s: float = 20.0


def pauses(patience: Patience, chance: random.Random) -> Iterator[float]:
    """Pauses before the second, third, … try; the caller stops when its deadline has passed."""
    bound = patience.first_s
    while True:
        yield chance.uniform(bound / 2, bound)
        bound = min(bound * 2, patience.longest_s)
