"""How often a transfer is tried whose failure may pass."""

from __future__ import annotations

from collections.abc import Iterator

from pilot.clock import Clock

PAUSES_S = (0.5, 3.0)
"""Before the second and the third try."""
LATER_S, LONGEST_S = 6.0, 60.0


def pauses(clock: Clock, outage_s: float = 0.0) -> Iterator[float]:
    """Seconds before each further try: two at once, and then ever rarer ones until `outage_s` after
    the first failure, when this is first asked. The last try is when that is over."""
    until = clock.monotonic() + outage_s
    yield from PAUSES_S
    pause_s = LATER_S
    while (left_s := until - clock.monotonic()) > 0:
        yield min(pause_s, left_s)
        pause_s = min(2 * pause_s, LONGEST_S)
