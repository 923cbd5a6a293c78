"""Which refusals count. Code that destroys something, or ends a worker, asks here first.

Anything at a dispatcher's address can refuse requests of its pilots, edges and relays: a proxy, a
captive portal, another service, another dispatcher, ours with an empty store. So a refusal counts
only from the dispatcher that is known to have given what it takes away:

an attempt   `Assignment.seal` comes back with what ends it, a verdict or a command to kill. No
request ever carries it, so a server that only receives requests cannot send it. a worker     a
problem names its dispatcher as `Registered.giver` did; a dispatcher whose store does not know the
worker names nobody.

A dispatcher from before seals sends none. Of its verdicts those count that it gives only after it
has checked the report key, and nothing is deleted on its word. Of an attempt that has a seal only
its «accepted» counts, which destroys nothing: a store may go back to the version before while jobs
run. A PanDA server has no seals either: what it says in its own JSON counts, an HTTP status does
not, and nothing is deleted on its word.
"""

from __future__ import annotations

import hmac
from enum import Enum, auto

from ailurus.protocol import messages as m
from ailurus.protocol.states import ReportOutcome
from ailurus.wire.client import STRANGER, Nonsense, Refused

PANDA = "panda"
"""The giver of a PanDA server's answers: it has no name of its own."""
UNKNOWN = "the server that answers is not known to be the dispatcher"
# Said to a worker, and not to a request: the token is no good, the worker is a stray or has ended.
DISMISSALS = frozenset({401, 403, 409, 410})
# A server that answers so is no dispatcher for this request, though it may be one for others.
WRONG_DOOR = frozenset({404, 405, 421})
# The fault is in the request, not in its sender.
FAULTS = frozenset({400, 413, 422})
# Verdicts of a dispatcher from before seals which it gave only after it had checked the report key.
_CHECKED = frozenset(ReportOutcome) - {ReportOutcome.BAD_KEY}


class Judged(Enum):
    """What becomes of a report."""

    # The verdict is another server's: the report must still be sent.
    KEPT = auto()
    # The report need not be sent again.
    SETTLED = auto()
    # The same, and another attempt counts: its outputs are to be deleted.
    LOST = auto()


def sealed(given: str, shown: str) -> bool:
    """Whether the sender of the seal `shown` is the dispatcher that gave it. One that gives no
    seals is believed about attempts, since it took the worker's token."""
    return not given or hmac.compare_digest(given.encode(), shown.encode())


def judged(given: str, verdict: m.ReportVerdict) -> Judged:
    """What becomes of the report of an attempt that came with the seal `given`."""
    if not given:
        return Judged.SETTLED if verdict.verdict in _CHECKED else Judged.KEPT
    if not verdict.seal and verdict.verdict == ReportOutcome.ACCEPTED:
        # The store went back to a dispatcher from before seals.
        return Judged.SETTLED
    if not sealed(given, verdict.seal):
        return Judged.KEPT
    return Judged.SETTLED if verdict.verdict == ReportOutcome.ACCEPTED else Judged.LOST


def known(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` has refused, and not another server at its address."""
    return error.giver == giver and error.giver != STRANGER and error.status not in WRONG_DOOR


def dismisses(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` ends the caller."""
    return known(error, giver) and error.status in DISMISSALS


def newer(error: Nonsense, giver: str) -> bool:
    """Whether the dispatcher called `giver` sent an answer that this version cannot read. A
    dispatcher without a name is older than this one, and sends none."""
    return bool(giver) and error.giver == giver


def at_fault(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` found a fault in the request."""
    return known(error, giver) and error.status in FAULTS


def divisible(error: Refused) -> bool:
    """Whether a dispatcher says that the request is at fault: a part of it may be accepted
    alone."""
    return error.giver != STRANGER and error.status in FAULTS
