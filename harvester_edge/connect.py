"""Which upstream a site has: our dispatcher, or a PanDA server. Nothing else in the edge asks
that."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from harvester_edge import native
from harvester_edge.book import Book
from harvester_edge.client import client
from harvester_edge.evidence import Worker
from harvester_edge.native import Native
from harvester_edge.panda import pilots
from harvester_edge.panda import server as panda
from harvester_edge.panda.instance import Instance
from harvester_edge.render import Access
from harvester_edge.site import Site
from harvester_edge.upstream import Probe, Upstream


def connect(
    site: Site,
    book: Book,
    live: Callable[[], Collection[Worker]],
    clock: Callable[[], float],
    log: Log,
) -> Upstream:
    """The upstream of a site. `live`: its workers that have not ended. Raises AilurusError."""
    if (part := site.dispatcher.panda) is None:
        return Native(client(site))
    return Instance(site, part, panda.connect(site, part), book, live, clock, log)


def access(site: Site) -> Access:
    """How a pilot of the site reaches the queue."""
    part = site.dispatcher.panda
    return Access() if part is None else pilots.access(part)


def probe(site: Site) -> Probe:
    """Whether the server answers and takes the token. Raises WireError or AilurusError."""
    if (part := site.dispatcher.panda) is None:
        return native.probe(site, client(site, patience_s=0.0))
    return panda.probe(panda.connect(site, part, patience_s=0.0), part.harvester_id)


def attempts(site: Site, ask: m.TraceRequest) -> tuple[m.TracedAttempt, ...]:
    """The attempts of jobs on the site's workers. Raises WireError, or AilurusError where nobody
    tells."""
    if site.dispatcher.panda is not None:
        raise AilurusError("a PanDA server tells an edge of no jobs: its monitor does")
    return client(site, patience_s=0.0).call("edge_trace", ask, answer=m.Traced).attempts
