"""Workers that have room and no job."""

from __future__ import annotations

from dispatcher.memory.unserved import Unserved


def test_who_looks_at_them_minds_nobody_who_comes_or_goes_meanwhile():
    unserved = Unserved()
    for worker_id in (1, 2):
        unserved.add("q", worker_id)
    seen = []
    for worker_id in unserved.first("q"):
        seen.append(worker_id)
        unserved.add("q", worker_id + 10)
    assert seen == [1, 2]
