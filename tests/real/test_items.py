"""A job of 2,000 payloads, its pilot and its dispatcher killed half-way: each is counted once."""

from __future__ import annotations

from collections import Counter

import pytest

from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemSpec, ItemState
from ailurus.protocol.states import FINAL, JobState
from tests.rig.programs import Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow]
COUNT = 2000


def test_each_of_2000_payloads_finishes_exactly_once_though_all_is_killed_half_way():
    with Rig(heartbeat_s=1, cores=8) as rig:
        seen = rig.directory / "seen"
        payloads = rig.client.upload("all", (ItemSpec(arguments=(str(nr),)) for nr in range(COUNT)))
        command = f"sh -c 'echo $0 >> {seen}; sleep 0.01'"
        spec = null_job(0, command=command, payloads=payloads, cores=8, memory_mb=2000)
        (job_id,) = rig.client.submit([spec]).job_ids
        pilot = rig.pilot()

        def finished() -> int:
            return rig.client.show(job_id).items.finished

        until(lambda: finished() > COUNT // 4, 60, "a quarter finishes")
        rig.dispatcher.kill()
        rig.dispatchers[0] = rig.serve()
        until(lambda: finished() > COUNT // 2, 60, "half of them finish")
        pilot.kill()
        between = finished()
        assert between < COUNT
        rig.pilot()
        until(lambda: rig.client.show(job_id).row.state in FINAL, 90, "the job ends")
        assert rig.client.show(job_id).row.state is JobState.FINISHED
        rows = [
            row
            for after in range(-1, COUNT - 1, 1000)
            for row in rig.client.items(job_id, ItemsQuery(after=after, limit=1000)).items
        ]
        assert [row.index for row in rows] == list(range(COUNT))
        assert {row.state for row in rows} == {ItemState.FINISHED}
        # Whoever ran twice was with the pilot that was killed.
        ran = Counter(map(int, seen.read_text().split()))
        assert sorted(ran) == list(range(COUNT))
        assert {index for index, times in ran.items() if times > 1} <= {
            row.index for row in rows if row.attempt > 1
        }
