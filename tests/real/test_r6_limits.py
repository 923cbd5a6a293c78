"""R6: pilot and edge that may hold few descriptors: slower perhaps, and nobody's job fails for
it."""

from __future__ import annotations

import subprocess

import pytest

from tests.rig import proc
from tests.rig.programs import Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
SITE = {"scaling": {"max_total": 4, "max_queued": 4, "per_cycle": 4, "idle_exit": "2s"}}


def confine(pid, descriptors):
    for one in (pid, *proc.children(pid)):
        limit = f"--nofile={descriptors}:1024"
        subprocess.run(["prlimit", "--pid", str(one), limit], check=True)


def jobs(rig, n):
    asked = [
        null_job(nr, command=f"sleep 0.3; printf {nr} > out.txt", outputs=[{"name": "out.txt"}])
        for nr in range(n)
    ]
    return list(rig.client.submit(asked).job_ids)


def finished(rig, ids):
    return set(rig.client.wait(ids, 0).states.values()) == {"finished"}


@pytest.mark.parametrize("descriptors", [24, 40])
def test_r6_a_pilot_without_descriptors_fails_no_job_for_good(descriptors):
    with Rig(cores=16) as rig:
        pilot = rig.pilot()
        rig.warm()
        confine(pilot.pid, descriptors)
        expected = jobs(rig, 64)
        until(lambda: not pilot.alive or finished(rig, expected), 60, "all are done, or it leaves")
        if not pilot.alive:
            # Three in a row that cannot begin on a node make its pilot leave it; others come.
            pilot = rig.pilot()
        assert set(rig.client.wait(expected, 60).states.values()) == {"finished"}
        kept = rig.rows("select job_id, count(*) from file where name = 'out.txt' group by job_id")
        assert dict(kept) == dict.fromkeys(expected, 1)
        pilot.stop()
        assert list((rig.directory / "work").glob("ailurus-*")) == []


@pytest.mark.parametrize("descriptors", [6, 9])
def test_r6_an_edge_without_descriptors_says_so_and_goes_on_when_there_are_more(descriptors):
    with Rig(**SITE) as rig:
        edge = rig.start_edge()
        until(lambda: rig.client.overview().sites, 20, "the edge has its site")
        confine(edge.pid, descriptors)
        ids = jobs(rig, 8)
        until(lambda: "Too many open files" in edge.log.read_text(), 20, "it says what it lacks")
        assert edge.alive
        confine(edge.pid, 256)
        assert set(rig.client.wait(ids, 60).states.values()) == {"finished"}
        assert rig.rows("select count(*) from attempt") == [(len(ids),)]
