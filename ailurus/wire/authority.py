"""Whose word it is. What destroys something, or sends somebody away, asks here first.

Whatever stands at a dispatcher's address can say «no» to its pilots, edges and relays: a proxy, a captive
portal, another service, another dispatcher, ours with an empty store. So a «no» counts only from who is
known to be the one that gave what it takes away:

    an attempt   `Assignment.seal` comes back with what ends it, a verdict or a command to kill. No request
                 ever holds it, so who merely is asked cannot say it.
    a worker     a problem names its dispatcher as `Registered.giver` did; a dispatcher whose store does
                 not know the worker names nobody.

A dispatcher from before seals gives none. It is believed what only who has checked the report key says, and
nothing is deleted on its word. A PanDA server has no seals either: what it says in its own JSON
counts, an HTTP status does not, and nothing is deleted on its word.
"""

from __future__ import annotations

import hmac
from enum import Enum, auto

from ailurus.protocol import messages as m
from ailurus.wire.client import STRANGER, Nonsense, Refused

PANDA = "panda"
"""What a PanDA server is called here: it has no name of its own."""
ACCEPTED = "accepted"
# Said to a worker, and not to a request: the token is no good, the worker is a stray or has ended.
DISMISSALS = frozenset({401, 403, 409, 410})
# Who answers so is no dispatcher for this request, though it may be one for others.
WRONG_DOOR = frozenset({404, 405, 421})
# Of what was asked rather than of who asks.
FAULTS = frozenset({400, 413, 422})
# Verdicts of a dispatcher from before seals which it gave only after it had checked the report key.
_CHECKED = frozenset({ACCEPTED, "alreadydone", "badattemptnr", "notyours", "illegal"})


class Judged(Enum):
    """What becomes of a report."""

    KEPT = auto()  # who judged it is a stranger: it is still owed
    SETTLED = auto()  # nothing is owed any more
    LOST = auto()  # the same, and another attempt counts: the outputs are to be deleted


def sealed(given: str, shown: str) -> bool:
    """Whether who shows this seal gave it. A dispatcher that gives none is believed what it says of
    attempts, since it took the worker's token."""
    return not given or hmac.compare_digest(given.encode(), shown.encode())


def judged(given: str, verdict: m.Verdict) -> Judged:
    """What becomes of the report of an attempt that came with the seal `given`."""
    if not given:
        return Judged.SETTLED if verdict.verdict in _CHECKED else Judged.KEPT
    if not sealed(given, verdict.seal):
        return Judged.KEPT
    return Judged.SETTLED if verdict.verdict == ACCEPTED else Judged.LOST


def known(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` has refused, and not somebody who stands at its address."""
    return error.giver == giver and error.giver != STRANGER and error.status not in WRONG_DOOR


def dismisses(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` sends away who asked."""
    return known(error, giver) and error.status in DISMISSALS


def newer(error: Nonsense, giver: str) -> bool:
    """Whether the dispatcher called `giver` has said what this version does not understand. One that has
    no name is older than we are, and says nothing of that kind."""
    return bool(giver) and error.giver == giver


def at_fault(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` found a fault in what was asked."""
    return known(error, giver) and error.status in FAULTS


def divisible(error: Refused) -> bool:
    """Whether a part of what was asked may be at fault for all of it: some dispatcher says so."""
    return error.giver != STRANGER and error.status in FAULTS
