"""Our dispatcher as the edge's upstream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import msgspec

from ailurus.protocol import messages as m
from ailurus.wire.client import Client
from harvester_edge.fit import describe
from harvester_edge.site import Site
from harvester_edge.upstream import Demand, Key, Probe

A = TypeVar("A", bound=msgspec.Struct)
SHAPES_SHOWN = 5


class NativeCaller(Protocol):
    """What this module uses of `Client`."""

    def call(self, name: str, ask: Any, *, answer: type[A]) -> A: ...


class Native:
    """A dispatcher that speaks our own API."""

    pilots_register = True

    def __init__(self, client: NativeCaller) -> None:
        self._client = client

    def hello(self, ask: m.Hello) -> m.Welcome:
        return self._client.call("hello", ask, answer=m.Welcome)

    def demand(self, ask: m.DemandRequest) -> Demand:
        answer = self._client.call("demand", ask, answer=m.Demand)
        return Demand(answer, tuple(_sentences(answer)))

    def plan(self, ask: m.NewIntent) -> tuple[str, ...]:
        return self._client.call("intent", ask, answer=m.Bootstraps).tokens

    def worker_id(self, credential: str) -> int:
        return 0

    def adopted_worker_id(self) -> int:
        return 0

    def report(self, ask: m.WorkerObservations) -> None:
        self._client.call("workers_news", ask, answer=m.Done)

    def drain(self, ask: m.DrainWorkers) -> None:
        self._client.call("drain", ask, answer=m.Done)

    def condemned(self) -> frozenset[Key]:
        return frozenset()

    def close(self) -> None:
        pass


def _sentences(demand: m.Demand) -> Iterator[str]:
    """The largest shapes that wait, and the nodes that get no jobs."""
    shapes = sorted(demand.shapes, key=lambda ask: -ask.jobs)
    shown, rest = shapes[:SHAPES_SHOWN], shapes[SHAPES_SHOWN:]
    for ask in shown:
        shared = f", {ask.sites} sites share them" if ask.sites > 1 else ""
        yield f"{ask.jobs} jobs wait in {ask.queue or 'any queue'}: {describe(ask.shape)} each{shared}"
    for node in demand.excluded:
        yield f"node {node.host} gets no jobs: {node.reason}"
    if rest:
        yield f"{sum(ask.jobs for ask in rest)} jobs wait in {len(rest)} other shapes"


def probe(site: Site, client: Client) -> Probe:
    """Ask the dispatcher something that changes nothing. Raises WireError."""
    began = time.time()
    answer = client.call("edge_trace", m.TraceRequest(site=site.site), answer=m.Traced)
    took = time.time() - began
    skew_s = abs(answer.now - (began + took / 2)) - took if answer.now else 0.0
    url = site.dispatcher.url
    return Probe(
        f"{url} answers in {took * 1000:.0f} ms and knows the token for {site.site}", skew_s
    )
