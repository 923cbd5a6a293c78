"""An edge may know which of its own workers had which jobs, and nothing of others."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import EDGE, job, run


def test_jobs_are_traced_to_workers_of_the_site_and_back_also_when_they_have_ended(place):
    async def test(b):
        one, other = await b.submit(job("a"), job("b"))
        ours, theirs = await b.worker(site="here"), await b.worker(site="there")
        (mine,) = await ours.acquire()
        await ours.report(mine)
        await ours.service.workers.bye(m.Bye(ending="done"), ours.caller)
        await theirs.acquire()
        ask = m.TraceRequest(site="here", worker_ids=(ours.id, theirs.id))
        (found,) = (await b.service.edges.edge_trace(ask, EDGE)).attempts
        assert (found.job_id, found.worker_id, found.state) == (one, ours.id, "finished")
        by_job = await b.service.edges.edge_trace(m.TraceRequest(site="here", job_id=one), EDGE)
        assert [(one.attempt_nr, one.worker_id) for one in by_job.attempts] == [(1, ours.id)]
        assert not (
            await b.service.edges.edge_trace(m.TraceRequest(site="here", job_id=other), EDGE)
        ).attempts
        stranger = Caller(subject="x", scopes=frozenset({Scope.EDGE}), site="there")
        with pytest.raises(Rejected, match="not of site here"):
            await b.service.edges.edge_trace(ask, stranger)

    run(test, place)
