"""Whose «no» counts. Whatever destroys something, or sends a caller away, asks here first.

Anything at a dispatcher's address can say «no» to its pilots, edges and relays: a proxy, a captive
portal, another service, another dispatcher, ours with an empty store. So a «no» counts only from the
dispatcher that is known to have given what it takes away:

    an attempt   `Assignment.seal` comes back with what ends it, a verdict or a command to kill. No request
                 ever holds it, so a server that is merely asked cannot send it.
    a worker     a problem names its dispatcher as `Registered.giver` did; a dispatcher whose store does
                 not know the worker names nobody.

A dispatcher from before seals sends none. Of its verdicts those count that it gives only after it has checked
the report key, and nothing is deleted on its word. Of an attempt that has a seal only its «accepted» counts, which
destroys nothing: a store may go back to the version before while jobs run. A PanDA server has no seals either: what it says in its
own JSON counts, an HTTP status does not, and nothing is deleted on its word.
"""

from __future__ import annotations

import hmac
from enum import Enum, auto

from ailurus.protocol import messages as m
from ailurus.wire.client import STRANGER, Nonsense, Refused

PANDA = "panda"
"""The giver of a PanDA server's answers: it has no name of its own."""
UNKNOWN = "the server that answers is not known to be the dispatcher"
ACCEPTED = "accepted"
# Said to a worker, and not to a request: the token is no good, the worker is a stray or has ended.
DISMISSALS = frozenset({401, 403, 409, 410})
# A server that answers so is no dispatcher for this request, though it may be one for others.
WRONG_DOOR = frozenset({404, 405, 421})
# The fault is in the request, not in its sender.
FAULTS = frozenset({400, 413, 422})
# Verdicts of a dispatcher from before seals which it gave only after it had checked the report key.
_CHECKED = frozenset({ACCEPTED, "alreadydone", "badattemptnr", "notyours", "illegal"})


class Judged(Enum):
    """What becomes of a report."""

    KEPT = auto()  # a stranger judged it: it is still owed
    SETTLED = auto()  # nothing is owed any more
    LOST = auto()  # the same, and another attempt counts: the outputs are to be deleted


def sealed(given: str, shown: str) -> bool:
    """Whether the sender of the seal `shown` is the dispatcher that gave it. One that gives no seals is
    believed about attempts, since it took the worker's token."""
    return not given or hmac.compare_digest(given.encode(), shown.encode())


def judged(given: str, verdict: m.ReportVerdict) -> Judged:
    """What becomes of the report of an attempt that came with the seal `given`."""
    if not given:
        return Judged.SETTLED if verdict.verdict in _CHECKED else Judged.KEPT
    if not verdict.seal and verdict.verdict == ACCEPTED:
        return Judged.SETTLED  # a dispatcher from before seals to which the store went back
    if not sealed(given, verdict.seal):
        return Judged.KEPT
    return Judged.SETTLED if verdict.verdict == ACCEPTED else Judged.LOST


def known(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` has refused, and not another server at its address."""
    return error.giver == giver and error.giver != STRANGER and error.status not in WRONG_DOOR


def dismisses(error: Refused, giver: str) -> bool:
    """Whether the dispatcher called `giver` sends the caller away."""
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
