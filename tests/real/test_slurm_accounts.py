"""The edge on a Slurm that keeps accounts: a real slurmdbd on a MariaDB, where what ended leaves
the list within seconds, so that only sacct can tell how."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.real.batch_promises import refused
from tests.rig import batch_systems
from tests.rig.batch import Rig
from tests.rig.batch_kills import sleepers
from tests.rig.waiting import until

pytestmark = [pytest.mark.batch, pytest.mark.timeout(120)]
QOS = {
    "few": ["MaxSubmitJobsPerUser=2"],
    "slow": ["MaxJobsPerUser=1"],
    "urgent": ["Preempt=normal", "PreemptMode=cancel"],
}


@pytest.fixture(scope="module")
def slurm(need) -> Iterator[batch_systems.Slurm]:
    os.environ["PATH"] += ":/usr/sbin"
    for program, package in (
        ("slurmctld", "slurm-wlm"),
        ("munged", "munge"),
        ("slurmdbd", "slurmdbd"),
        ("mariadbd", "mariadb-server-core"),
    ):
        need(program, package=package, option="--slurm")
    with batch_systems.slurm(4, 32, "accounts") as system:
        accounts(system, "add", "account", "physics", "DefaultQOS=normal", "QOS=normal")
        accounts(system, "add", "user", system.user, "Account=physics", "DefaultAccount=physics")
        for name, limits in QOS.items():
            accounts(system, "add", "qos", name, *limits)
        names = ",".join(["normal", *QOS])
        which = (f"name={system.user}", "account=physics")
        accounts(system, "modify", "user", *which, "set", f"QOS={names}")
        yield system


@pytest.fixture
def system(slurm) -> Iterator[batch_systems.Slurm]:
    yield slurm
    slurm.empty()


def accounts(system, *argv):
    system.run("sacctmgr", "--immediate", "--quiet", *argv)


def listed(system):
    """Whether the list shows anything of a worker, ended ones included."""
    return system.run("squeue", "--noheader", "--states=all").strip()


SLOT = {"cores": 1, "memory": "500M", "disk": "1G", "walltime": "1h"}
# of a slot's worker, whose pilot never registers, in the edge's words, and what it says
ENDINGS = {
    "done": ("never_registered", "COMPLETED: exit code 0 on n1"),
    "fails": ("never_registered", "FAILED: exit code 3 on n1"),
    "killed": ("never_registered", "FAILED: killed by signal 9 on n1"),
    "cancelled": ("cancelled", "CANCELLED"),
    "waiting": ("cancelled", "CANCELLED"),
    "lost": ("node_fail", "NODE_FAIL"),
    "late": ("walltime", "TIMEOUT"),
    "evicted": ("preempted", "PREEMPTED"),
    "requeued": ("cancelled", "CANCELLED"),
}
PLACES = {
    "lost": ["--exclusive", "--nodelist=n2"],
    "evicted": ["--exclusive", "--nodelist=n3"],
    "waiting": ["--hold"],
    "requeued": ["--requeue", "--nodelist=n4"],
}
PILOT = """here={here}
slot=$(echo "$*" | sed 's/.*--slot \\([a-z]*\\).*/\\1/')
echo "$slot" >> $here/begun
until [ -e $here/go ]; do sleep 0.1; done
case $slot in done) exit 0 ;; fails) exit 3 ;; killed) kill -9 $$ ;; esac
exec sleep 1000"""


def test_b4_what_left_the_list_is_judged_by_the_accounts_and_by_nothing_while_they_are_down(system):
    """One worker for each way to end, while no edge looks; then the list is empty."""
    slots = {
        name: {**SLOT, "queue": name, "extra": {"submit": ["--nodelist=n1"]}} for name in ENDINGS
    }
    for name, options in PLACES.items():
        slots[name]["extra"] = {"submit": options}
    with Rig(system) as rig:
        backend = {"limits": {"grace": "30s"}}  # slurmctld tells it within some ten seconds
        begun = rig.directory / "begun"
        begun.touch()
        pilot = {"program": rig.program("ends", PILOT.format(here=rig.directory))}
        rig.configure(slots=slots, pilot=pilot, scaling={"max_total": len(ENDINGS)})
        for name in ENDINGS:
            rig.submit(1, queue=name)
        edge = rig.edge()
        started = set(ENDINGS) - {"waiting"}
        until(lambda: set(begun.read_text().split()) == started, 30, f"they run: {rig.log()}")
        until(lambda: len(rig.known()) == len(ENDINGS), 20, "all are known")
        rig.kill(edge)
        ids = {row["slot"]: row["batch_id"] for row in rig.workers()}
        system.down("slurmdbd")
        try:
            _end_each(system, ids, rig)
            until(lambda: not listed(system), 75, f"all have left: {listed(system)}")
            rig.configure(slots=slots, pilot=pilot, backend=backend, scaling={"max_total": 0})
            rig.edge()
            until(lambda: rig.log().count("search_failed") >= 5, 40, "accounts are asked in vain")
            assert not rig.workers("phase = 'ended'")
        finally:
            system.up("slurmdbd")
        until(lambda: len(rig.workers("phase = 'ended'")) == len(ENDINGS), 30, "all ends are known")
        found = {row["slot"]: (row["ending"], row["diagnosis"]) for row in rig.workers()}
        assert {name: ending for name, (ending, _) in found.items()} == {
            name: ending for name, (ending, _) in ENDINGS.items()
        }, found
        for name, (_, told) in ENDINGS.items():
            assert told in found[name][1], found[name]
        assert rig.submissions == len(ENDINGS)


def _end_each(system, ids, rig):
    system.run("scontrol", "update", f"jobid={ids['late']}", "EndTime=now+1")
    system.run("scontrol", "requeue", ids["requeued"])
    (rig.directory / "go").touch()
    for name in ("cancelled", "waiting"):
        system.run("scancel", ids[name])
    system.run("scontrol", "update", "nodename=n2", "state=down", "reason=lost")
    urgent = ("--qos=urgent", "--exclusive", "--nodelist=n3", "--output=/dev/null")
    other = system.run("sbatch", "--parsable", *urgent, "--wrap=true").strip()
    until(
        lambda: "JobState=COMPLETED" in system.run("scontrol", "show", "job", other), 30, "it ran"
    )
    begun = rig.directory / "begun"
    until(lambda: begun.read_text().split().count("requeued") == 2, 30, "it runs again")
    system.run("scancel", ids["requeued"])


def test_b4_a_submission_of_which_only_the_accounts_know_is_not_repeated(system):
    """Its command was killed with the edge, and its worker has come and gone."""
    with Rig(system, pilot={"program": "/bin/true"}, scaling={"max_total": 1}) as rig:
        rig.submit(1)
        rig.lie("kill-during")
        assert rig.edge().wait(30) == -9
        until(
            lambda: system.run("sacct", "--noheader", "--allocations"), 20, "it is in the accounts"
        )
        until(lambda: not listed(system), 40, f"it has left: {listed(system)}")
        rig.configure(pilot={"program": "/bin/true"}, scaling={"max_total": 0})
        rig.edge()
        until(lambda: rig.workers("phase = 'ended'"), 30, f"its end is known: {rig.log()}")
        (row,) = rig.workers()
        assert (row["outcome"], row["ending"]) == ("accepted", "never_registered"), row
        assert rig.submissions == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"account": "nosuch"}, "Invalid account"),
        ({"account": "root", "qos": "urgent"}, "Invalid qos"),
        ({"qos": "nosuch"}, "Invalid qos"),
        ({"partition": "nosuch"}, "Invalid partition"),
    ],
)
def test_an_account_that_is_refused_is_a_refusal_and_says_why(system, wrong, reason):
    with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
        rig.edge()
        assert refused(rig, reason), rig.workers()


def test_a_limit_of_submitted_jobs_refuses_what_is_above_it_and_leaves_the_rest(system):
    few = {"std": {"extra": {"qos": "few"}}}
    limits = {"limits": {"max_array": 2}}
    with sleepers(system, 4, slots=few, backend=limits) as rig:
        rig.edge()
        until(lambda: rig.agrees(2), 30, f"two are there: {rig.log()}")
        until(lambda: rig.workers("phase = 'ended'"), 30, "the others were refused")
        for row in rig.workers("phase = 'ended'"):
            assert row["outcome"] == "rejected"
            assert "policy" in row["diagnosis"], row


def test_a_limit_of_running_jobs_keeps_workers_waiting(system):
    with sleepers(system, 3, slots={"std": {"extra": {"qos": "slow"}}}) as rig:
        rig.edge()
        until(lambda: rig.workers("phase = 'starting'"), 30, "one runs")
        waiting = rig.workers("phase = 'queued'")
        assert {row["diagnosis"] for row in waiting} == {"QOSMaxJobsPerUserLimit"}, waiting
        assert len(waiting) == 2
