"""The lease of a site: one edge provisions it, and only for the dispatcher that knows its
workers."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.hardware import Hardware
from ailurus.wire import authority
from ailurus.wire.client import Refused, WireError
from harvester_edge import machines
from harvester_edge.edge import Edge


class SiteTaken(AilurusError):
    """Another edge provisions this site."""


def renew(edge: Edge) -> str:
    """Take or renew the lease when it is time; why the dispatcher gave none, empty if it did.

    Raises SiteTaken if another edge has the site.
    """
    lease = edge.lease
    if edge.clock() < lease.renew_at:
        return ""
    ask = m.Hello(
        site=edge.site.site,
        instance=edge.book.instance(),
        slots=_slots(edge),
        online=edge.site.policy.status == "online",
    )
    lease.refused = False
    try:
        welcome = edge.upstream.hello(ask)
    except Refused as error:
        lease.refused = error.status in (401, 403)
        if error.status == 409 and authority.known(error, edge.book.meta("giver") or error.giver):
            raise SiteTaken(
                error.message,
                remedy=f"{error.remedy}; if that was this edge, its {edge.book.path} is not the one it had",
            ) from None
        return str(error)
    except WireError as error:
        return str(error)
    if why := foreign(edge, welcome.giver):
        return why
    remember_dispatcher(edge, welcome.giver)
    edge.book.claim(edge.site.site)
    lease.epoch, lease.length_s = welcome.epoch, welcome.lease_s
    lease.renew_at = edge.clock() + welcome.lease_s / 3
    return ""


def foreign(edge: Edge, giver: str) -> str:
    """Why the dispatcher of that name is not to be believed; empty: it is.

    While the site has workers, its dispatcher is the one whose store knows them. One of an older
    version gives no name.
    """
    known = edge.book.meta("giver")
    if giver in ("", known) or not known or not edge.workers:
        return ""
    return (
        f"another dispatcher, or another store, answers at {edge.site.dispatcher.url} than the "
        f"one that knows this site's {len(edge.workers)} workers; nothing is begun, judged or "
        "cancelled until that one is back, or they have ended"
    )


def remember_dispatcher(edge: Edge, giver: str) -> None:
    """Write the name of the site's dispatcher to the book."""
    if giver not in ("", edge.book.meta("giver")):
        edge.book.set_meta("giver", giver)


def _slots(edge: Edge) -> tuple[m.SlotShape, ...]:
    """The site's slots as the dispatcher knows them."""
    return tuple(
        m.SlotShape(
            name=name, queue=slot.queue, room=edge.site.room(name), hardware=_machine(edge, name)
        )
        for name, slot in edge.site.slots.items()
    )


def _machine(edge: Edge, slot: str) -> Hardware | None:
    """What kind of machine a slot has; None: that is not known, or they differ."""
    known = machines.known(edge.book, edge.site, slot, edge.clock())
    return known[0] if len(known) == 1 else None
