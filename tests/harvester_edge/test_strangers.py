"""A2: an edge believes, about workers that it has, the dispatcher whose store knows them."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.worker import Phase
from ailurus.wire.client import Refused
from harvester_edge import lease
from harvester_edge.lease import SiteTaken

pytestmark = pytest.mark.field("A2")


def working(world):
    """An edge with a worker that runs."""
    world.dispatcher.giver, world.dispatcher.jobs = "right", 1
    world.cycle()
    world.batch.set(Phase.ACTIVE)
    world.cycle(5)
    assert len(world.workers()) == 1
    return world


def test_an_empty_dispatcher_ends_no_worker_and_gets_none(world):
    working(world)
    orders = len(world.batch.orders)
    world.dispatcher.giver, world.dispatcher.jobs = "empty", 50
    world.dispatcher.rows.clear()
    for _ in range(20):
        world.cycle(600)
    assert [one.ended for one in world.workers()] == [None]
    assert world.batch.cancelled == []
    assert len(world.batch.orders) == orders
    assert "another store" in world.edge.decisions.last.sentence


def test_it_stands_at_the_address_between_two_words(world):
    """The lease is renewed rarely; what says how the workers fare is the demand."""
    working(world)
    world.edge.lease.renew_at = world.clock() + 10_000
    world.dispatcher.giver = "empty"
    world.dispatcher.rows.clear()
    world.cycle(600)
    assert (world.workers()[0].ended, world.batch.cancelled) == (None, [])


def test_an_edge_without_workers_takes_a_new_dispatcher(world):
    world.dispatcher.giver = "right"
    world.cycle()
    world.dispatcher.giver, world.dispatcher.jobs = "new", 1
    world.cycle(100)
    assert len(world.batch.orders) == 1
    assert world.edge.book.meta("giver") == "new"


@pytest.mark.parametrize(
    ("giver", "believed"), [("right", True), ("other", False), ("-", False), ("", False)]
)
def test_only_the_dispatcher_says_that_the_site_is_another_edge_s(world, giver, believed):
    world.dispatcher.giver = "right"
    world.cycle()
    problem = m.Problem(title="another edge has it", status=409, giver=giver)

    def refuse(name, ask, **_):
        raise Refused(problem)

    world.dispatcher.call = refuse
    world.edge.lease.renew_at = 0.0
    if believed:
        with pytest.raises(SiteTaken):
            lease.renew(world.edge)
    else:
        assert "another edge has it" in lease.renew(world.edge)
