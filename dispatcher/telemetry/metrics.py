"""`/metrics` in Prometheus' format: read on request, from where the numbers are kept anyway.

Base units; labels are bounded: never a job, never a user, and the largest queues by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ailurus import __version__
from ailurus.protocol.messages import PilotSums, Trouble
from ailurus.protocol.messages.overview import TROUBLES
from ailurus.protocol.states import FINAL
from dispatcher.door.access_log import BOUNDS_S, Traffic
from dispatcher.events import Entry, StateChanged
from dispatcher.ports import Row
from dispatcher.service import Service

# Shown by name; jobs of further ones are counted together as `other`.
QUEUES = 100


class Metrics(Collector):
    """The figures of one dispatcher. Made before the first request, so that no job's end is
    missed."""

    def __init__(
        self, service: Service, traffic: Traffic, store: Path | None, waiting: Callable[[], int]
    ) -> None:
        """`store`: the file of an embedded store; `waiting`: how many requests wait for
        something."""
        self._service = service
        self._traffic = traffic
        self._store = store
        self._waiting = waiting
        self._ended: Counter[str] = Counter()
        self._jobs: list[Row] = []
        self._troubles: tuple[Trouble, ...] = ()
        self._pilots = PilotSums()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        service.store.listen(self._count)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics for who accepts it."""
        self._jobs = await self._service.store.read(lambda tx: tx.all("counter.all"))
        self._troubles, self._pilots = await self._service.figures.health()
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind

    def _count(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            event = entry.event
            if isinstance(event, StateChanged) and event.state in FINAL:
                self._ended[str(event.state)] += 1

    def collect(self) -> Iterator[Metric]:
        """All families; called by the encoder."""
        yield InfoMetricFamily(
            "ailurus_dispatcher", "Version of the program", value={"version": __version__}
        )
        yield from self._queue()
        yield from self._health()
        yield from self._requests()
        yield from self._loops()
        if self._store is not None:
            yield from self._files(self._store)

    def _queue(self) -> Iterator[Metric]:
        service = self._service
        jobs: Counter[tuple[str, str]] = Counter()
        for queue, _, state, n in self._jobs:
            jobs[state, queue] += n
        yield _gauge("ailurus_jobs", "Jobs by state and queue", ("state", "queue"), _bounded(jobs))
        yield _counter(
            "ailurus_jobs_ended", "Jobs that became final since the start", ("state",), self._ended
        )
        workers = Counter((heard.queue,) for heard in service.state.live.values())
        yield _gauge("ailurus_workers", "Workers that are heard of", ("queue",), _bounded(workers))
        waiting = Counter({(queue,): service.hub.waiting(queue) for (queue,) in workers})
        yield _gauge(
            "ailurus_workers_waiting",
            "Workers that wait for a job",
            ("queue",),
            _bounded(waiting),
        )
        yield GaugeMetricFamily(
            "ailurus_attempts", "Attempts in workers' hands", value=len(service.state.leases)
        )
        registrar = service.registrar
        registered: Counter[tuple[str]] = Counter()
        registered["due",], registered["refused",] = registrar.waiting, registrar.refused
        yield _gauge(
            "ailurus_registrations",
            "Outputs that the catalogue does not know yet, or refused",
            ("state",),
            registered,
        )
        yield GaugeMetricFamily(
            "ailurus_catalogue_up",
            "Whether the catalogue answers, where there is one",
            value=registrar.away is None,
        )
        yield GaugeMetricFamily(
            "ailurus_sites", "Sites with an edge", value=len(service.state.sites)
        )
        yield GaugeMetricFamily(
            "ailurus_heartbeat_seconds",
            "How often workers are told to report",
            value=service.state.heartbeat_s,
        )

    def _health(self) -> Iterator[Metric]:
        kinds = Counter({(kind,): 0 for kind in TROUBLES})
        kinds.update((one.kind,) for one in self._troubles)
        text = "Problems as `dispatcher status` lists them"
        yield _gauge("ailurus_problems", text, ("kind",), kinds)
        pilots = self._pilots
        yield GaugeMetricFamily("ailurus_cores", "Cores of all pilots", value=pilots.cores)
        yield GaugeMetricFamily("ailurus_cores_used", "Those with a job", value=pilots.used)

    def _requests(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "ailurus_http_requests", "Requests answered", labels=("route", "status")
        )
        times = HistogramMetricFamily(
            "ailurus_http_request_seconds",
            "From a request's head to its answer's end, waiting included",
            labels=("route",),
        )
        for route, tally in self._traffic.routes.items():
            for status, n in tally.statuses.items():
                total.add_metric((route, str(status)), n)
            reached = 0
            buckets: list[tuple[str, float]] = []
            for bound, n in zip((*map(str, BOUNDS_S), "+Inf"), tally.buckets, strict=True):
                reached += n
                buckets.append((bound, reached))
            times.add_metric((route,), buckets=buckets, sum_value=tally.seconds)
        yield total
        yield times
        yield GaugeMetricFamily(
            "ailurus_http_requests_held", "Requests that wait for something", value=self._waiting()
        )

    def _loops(self) -> Iterator[Metric]:
        loops = self._service.loops
        failures = loops.failures()
        yield _counter(
            "ailurus_loop_failures",
            "What loops of the dispatcher raised; each was tried again",
            ("loop",),
            Counter(failures),
        )
        down = {one.loop for one in loops.down()}
        up = GaugeMetricFamily("ailurus_loop_up", "Whether a loop does its work", labels=("loop",))
        for name in failures:
            up.add_metric((name,), name not in down)
        yield up

    def _files(self, store: Path) -> Iterator[Metric]:
        sizes: Counter[tuple[str]] = Counter()
        for kind, path in (("database", store), ("wal", Path(f"{store}-wal"))):
            if path.exists():
                sizes[kind,] = path.stat().st_size
        yield _gauge("ailurus_store_bytes", "Files of the store", ("file",), sizes)


def _bounded(found: Counter[Any]) -> Counter[Any]:
    """The counts with the last label, the queue, kept for the largest queues only."""
    sizes: Counter[str] = Counter()
    for labels, n in found.items():
        sizes[labels[-1]] += n
    if len(sizes) <= QUEUES:
        return found
    named = {name for name, _ in sizes.most_common(QUEUES)}
    bounded: Counter[Any] = Counter()
    for labels, n in found.items():
        bounded[(*labels[:-1], labels[-1] if labels[-1] in named else "other")] += n
    return bounded


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Counter[Any]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric((label,), value)
    return family
