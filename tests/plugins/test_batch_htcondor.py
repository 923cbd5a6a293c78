"""HTCondor's plugin on recordings of HTCondor 23.9.6."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import Accepted, Tag
from plugins.batch.commands import Ran
from plugins.batch.htcondor import HTCondor, HTCondorOptions, parse, submit_file
from tests.plugins.recordings import RECORDED, Player, order, recorded

TAG = Tag("aabcdtag")
NOWHERE = Path("/nowhere")


def plugin(root, *answers, **options):
    player = Player(list(answers))
    return HTCondor(HTCondorOptions(**options), root, "aabcd", run=player), player


def ads(stem):
    """Recorded ads, with a tag as ours have."""
    found = json.loads((RECORDED / "htcondor" / f"{stem}.json.out").read_text())
    return json.dumps([{**ad, "AilurusTag": TAG} for ad in found])


def one(**ad):
    usual = {"ClusterId": 8, "ProcId": 3, "AilurusTag": TAG}
    (found,) = parse(json.dumps([{**usual, **ad}]), NOWHERE)
    return found


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "phase"),
    [(1, Phase.QUEUED), (2, Phase.STARTING), (3, Phase.DRAINING), (5, Phase.HELD),
     (6, Phase.DRAINING), (7, Phase.HELD)],
)  # fmt: skip
def test_each_status_that_goes_on_has_a_phase(status, phase):
    assert (one(JobStatus=status).phase, one(JobStatus=status).ending) == (phase, None)


@given(st.integers().filter(lambda status: not 1 <= status <= 7))
def test_e4_a_status_that_we_do_not_know_is_no_verdict(status):
    assert (one(JobStatus=status).phase, one(JobStatus=status).ending) == (None, None)


BY_US = "The job attribute PeriodicRemove expression '…' evaluated to TRUE"


@pytest.mark.parametrize(
    ("ad", "ending"),
    [
        ({"JobStatus": 4, "ExitCode": 0}, Ending.DONE),
        ({"JobStatus": 4, "ExitCode": 3}, Ending.FAILED),
        ({"JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9}, Ending.FAILED),
        ({"JobStatus": 3, "RemoveReason": "via condor_rm (by user alice)"}, Ending.CANCELLED),
        ({"JobStatus": 3, "RemoveReason": BY_US, "LastJobStatus": 2}, Ending.WALLTIME),
        ({"JobStatus": 3, "RemoveReason": BY_US, "LastJobStatus": 1}, Ending.CANCELLED),
        (
            {"JobStatus": 3, "RemoveReason": BY_US, "LastJobStatus": 1, "NumJobStarts": 1},
            Ending.PREEMPTED,
        ),
        ({"JobStatus": 3, "RemoveReason": BY_US, "HoldReasonCode": 47}, Ending.WALLTIME),
        ({"JobStatus": 3, "RemoveReason": BY_US, "HoldReasonCode": 34}, Ending.OOM),
    ],
)
def test_each_way_out_has_an_ending(ad, ending):
    assert (one(**ad).phase, one(**ad).ending) == (Phase.ENDED, ending)


def test_recorded_queues_are_read():
    mixed = parse(ads("condor_q_mixed"), NOWHERE)
    assert {row.batch_id: row.phase for row in mixed if row.index == 0} == {
        "4.0": Phase.STARTING, "8.0": Phase.STARTING, "10.0": Phase.QUEUED, "11.0": Phase.HELD,
        "12.0": Phase.STARTING, "13.0": Phase.STARTING, "14.0": Phase.HELD, "15.0": Phase.HELD,
        "16.0": Phase.ENDED,
    }  # fmt: skip
    held = {row.batch_id: row.detail for row in mixed if row.phase is Phase.HELD}
    assert held["11.0"] == "held, code 15: submitted on hold at user's request"
    (suspended,) = parse(ads("condor_q_suspended"), NOWHERE)
    assert (suspended.phase, suspended.detail) == (Phase.HELD, "suspended")


def test_recorded_histories_are_read():
    endings = {
        stem: parse(ads(f"history_{stem}"), NOWHERE)[0].ending
        for stem in ("ok", "exit3", "kill9", "removed")
    }
    assert endings == {"ok": Ending.DONE, "exit3": Ending.FAILED, "kill9": Ending.FAILED,
                       "removed": Ending.CANCELLED}  # fmt: skip


# --- listings -------------------------------------------------------------------------------------


def test_nothing_printed_is_an_empty_listing(tmp_path):
    batch, player = plugin(tmp_path, recorded("htcondor", "condor_q_empty.json"))
    assert batch.listing() == ()
    assert 'substr(AilurusTag, 0, 5) == "aabcd"' in player.asked[0]


def test_the_queue_knows_better_than_the_history(tmp_path):
    base = {"ClusterId": 8, "AilurusTag": TAG}
    past = json.dumps([{**base, "ProcId": n, "JobStatus": 3, "RemoveReason": "r"} for n in (0, 1)])
    now = json.dumps([{**base, "ProcId": 0, "JobStatus": 2}])
    batch, _ = plugin(tmp_path, Ran(0, past + "\n"), Ran(0, now + "\n"))
    assert {row.index: row.phase for row in batch.find(TAG)} == {0: Phase.STARTING, 1: Phase.ENDED}


# --- submissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stem", "cluster", "count"), [("", 3, 1), ("_many", 4, 5)])
def test_an_accepted_cluster_has_an_id_for_each_worker(tmp_path, stem, cluster, count):
    batch, _ = plugin(tmp_path, recorded("htcondor", f"submit_terse{stem}"))
    accepted = batch.submit(order(tmp_path, count), TAG)
    assert accepted == Accepted({n: f"{cluster}.{n}" for n in range(count)})


def test_the_submit_file_sets_the_variables_that_the_script_reads():
    (line,) = re.findall(
        r'^environment = "(.*)"$',
        submit_file(HTCondorOptions(), order(Path("/a")), TAG),
        re.MULTILINE,
    )
    given = dict(one.split("=") for one in line.split())
    assert given == {"AILURUS_INDEX": "$(Process)", "AILURUS_CLUSTER": "$(Cluster)"}
    read = re.findall(r"\$(\w+)", HTCondor.index + HTCondor.batch_id)
    assert set(read) == set(given)


def test_the_submit_file_says_what_the_slot_asks():
    options = HTCondorOptions(requirements="HasBigDisk", accounting_group="g", submit=["+X = 1"])
    text = submit_file(options, order(Path("/a$b"), 50, gpus=2, wait_s=60), TAG)
    for line in (
        "executable = /a$(DOLLAR)b/script", "request_cpus = 4", "request_memory = 2000",
        "request_disk = 102400", "request_gpus = 2", 'My.AilurusTag = "aabcdtag"',
        "requirements = (HasBigDisk) && (MY.NumJobStarts ?: 0) == 0", "accounting_group = g",
        "+X = 1", "queue 50",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "QDate > 60" in text


# --- listing the history
# -----------------------------------------------------------------------------


def test_the_history_is_asked_for_our_own_clusters(tmp_path):
    """Any user may give a job our tag, let it end as he likes, and have it in everybody's
    history."""
    batch, player = plugin(tmp_path, Ran(0, ""))
    batch.find(TAG, ["8.0", "8.1", "101_2"])
    history, queue = player.asked
    wanted = f'AilurusTag == "{TAG}" && (ClusterId == 8)'
    assert history[history.index("-constraint") + 1] == wanted
    assert queue[queue.index("-constraint") + 1] == f'AilurusTag == "{TAG}"'
