"""Behind a relay a job goes to no machine that is another one than it needs."""

from __future__ import annotations

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.hardware import Hardware
from tests.dispatcher.helpers import job
from tests.harvester_edge.relay.world import World, play


def test_a_job_that_needs_a_machine_is_taken_by_no_pilot_that_is_another_one(tmp_path):
    """It came in the name of one that is gone."""

    async def test(w: World):
        new, old, silent, other = await w.plan(4)
        for pilot, arch in ((new, "x86-64-v4"), (old, "x86-64-v2"), (other, "x86-64-v3")):
            pilot.ask = replace(pilot.ask, hardware=Hardware(arch=arch))
        for pilot in (new, old, silent, other):
            await pilot.register()
        await w.b.submit(job("v3", arch=("x86_64-v3",)))
        (got,) = await w.fill(new)
        held = m.AttemptKey(job_id=got.job_id, attempt_nr=got.attempt_nr)
        await w.relay.release(m.Release(jobs=(held,)), new.known)
        new.has.clear()
        assert [await one.acquire() for one in (old, silent)] == [[], []]
        (taken,) = await other.acquire()
        assert taken.job_id == got.job_id

    play(test, tmp_path)
