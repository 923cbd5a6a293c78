"""A site's figures in Prometheus' text format, from the edge's book: also while the edge is down.

Labels are bounded: slots, phases, endings and limits of one site, never a worker or a job.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from harvester_edge.decide import Decision
from harvester_edge.files import write_whole
from harvester_edge.site import Site
from harvester_edge.status import StatusAnswer, glance


class Figures(Collector):
    """Reads the book each time that somebody asks."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def collect(self) -> Iterator[Metric]:
        return families(glance(self._site))


def families(seen: StatusAnswer) -> Iterator[Metric]:
    """The figures of a glance."""
    yield from _of_edge(seen)
    yield from _of_credentials(seen)
    yield from _of_workers(seen)
    if seen.decision is not None:
        yield from _of_limits(seen, seen.decision)


def _of_edge(seen: StatusAnswer) -> Iterator[Metric]:
    yield _one("up", "Whether an edge of the site runs.", seen, float(seen.running is not None))
    yield _one(
        "last_look_timestamp_seconds", "When the edge last finished a cycle.", seen, seen.looked
    )
    yield _one("paused", "Whether the site is paused or drained.", seen, float(seen.paused))
    yield _one("max_workers", "The limit of workers, scaling.max_total.", seen, seen.max_total)
    failed_turns = _family("loop_failures", "Turns of loops that failed, since the start.", "loop")
    for loop, n in seen.loop_failures.items():
        failed_turns.add_metric([seen.site, loop], n)
    yield failed_turns
    yield _one("loops_down", "Loops that do not do their work.", seen, len(seen.down))
    if seen.budget is not None:
        yield _one("budget_node_hours", "Node-hours of the period.", seen, seen.budget)
        yield _one("spent_node_hours", "Of these, by workers that ended.", seen, seen.node_hours)


def _of_credentials(seen: StatusAnswer) -> Iterator[Metric]:
    good = _family("credential_good", "Whether pilots could use a credential.", "credential")
    expires = _family(
        "credential_expires_timestamp_seconds", "When a credential ends.", "credential"
    )
    for one in seen.credentials:
        good.add_metric([seen.site, one.name], float(not one.fault))
        if one.expires is not None:
            expires.add_metric([seen.site, one.name], one.expires)
    yield from (good, expires)


def _of_workers(seen: StatusAnswer) -> Iterator[Metric]:
    workers = _family("workers", "Workers that have not ended.", "slot", "phase")
    ended = _family(
        "ended_workers", "Workers that ended and are still in the book.", "slot", "ending"
    )
    failed = _family("failed_starts", "Workers in a row that never registered.", "slot")
    for slot in seen.slots:
        for phase, n in slot.phases.items():
            workers.add_metric([seen.site, slot.slot, phase], n)
        for ending, n in slot.endings.items():
            ended.add_metric([seen.site, slot.slot, ending], n)
        failed.add_metric([seen.site, slot.slot], slot.health.failures)
    yield from (workers, ended, failed)


def _of_limits(seen: StatusAnswer, decision: Decision) -> Iterator[Metric]:
    room = _family("limit_room", "How many more workers a limit leaves room for.", "limit")
    binds = _family("limit_binds", "1 for the limit that binds.", "limit")
    for bound in decision.bounds:
        room.add_metric([seen.site, bound.name], max(0, bound.allowed))
        binds.add_metric([seen.site, bound.name], float(bound.name == decision.binding.name))
    yield from (room, binds)


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ailurus_edge_{name}", text, labels=["site", *labels])


def _one(name: str, text: str, seen: StatusAnswer, value: float | None) -> GaugeMetricFamily:
    family = _family(name, text)
    if value is not None:
        family.add_metric([seen.site], value)
    return family


def page(site: Site) -> bytes:
    """All of it as text."""
    return generate_latest(registry(site))


def registry(site: Site) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(Figures(site))
    return made


def write(site: Site, file: Path) -> None:
    """The page as a file of node_exporter's textfile collector, whole at any time."""
    write_whole(file, page(site))


def serve(site: Site, listen: str) -> WSGIServer:
    """Answer scrapes from a thread, for as long as the process lives. Raises AilurusError if
    nothing can listen there."""
    from prometheus_client import start_http_server

    from ailurus.protocol.errors import AilurusError

    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise AilurusError(f"{listen!r} is no address", remedy="127.0.0.1:9108")
    try:
        server, _ = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry(site))
    # A name or a port that is none.
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise AilurusError(f"cannot listen on {listen}: {why}", remedy="127.0.0.1:9108") from None
    return server
