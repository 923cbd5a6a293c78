"""The edge on PBS. No Debian mirror has a PBS server, so this is a stand-in (tests/standins/pbs), unless
AILURUS_TEST_PBS names a real one: a command that runs qsub, qstat, qselect and qdel there ("ssh login", or
`env` where they are at hand). A worker's directory must then be on a file system that both see: TMPDIR."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks import batch_systems
from benchmarks.batch_kills import sleepers
from benchmarks.batch_rig import until

from tests.real.batch_promises import Promises, refused

pytestmark = [pytest.mark.batch, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def pbs() -> Iterator[batch_systems.PBS]:
    with batch_systems.pbs() as system:
        yield system


@pytest.fixture
def system(pbs) -> Iterator[batch_systems.PBS]:
    yield pbs
    pbs.empty()


class TestPBS(Promises):
    """Those of every batch system."""

    def _silence(self, system, begin, end):
        if batch_systems.PBS_SERVER:
            pytest.skip("AILURUS_TEST_PBS is a real server, which is not ours to stop")
        super()._silence(system, begin, end)

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"queue": "nosuch"}, "Unknown queue"),
            ({"queue": "closed"}, "not enabled"),
            ({"chunk": "nosuch=1"}, "Unknown resource"),
            ({"submit": ["-l", "walltime=nonsense"]}, "Illegal attribute"),
        ],
    )
    def test_a_refusal_is_one_and_says_why(self, system, wrong, reason):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            assert refused(rig, reason), rig.workers()

    def test_a_held_worker_is_held(self, system):
        with sleepers(system, 1, backend={"options": {"submit": ["-h"]}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'held'"), 20, "it is held")
