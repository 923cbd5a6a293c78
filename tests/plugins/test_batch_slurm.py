"""Slurm's plugin on recordings of Slurm 22.05.8."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import Accepted, BatchError, Tag
from plugins.batch import slurm
from plugins.batch.commands import Ran
from plugins.batch.slurm import (
    Slurm,
    SlurmOptions,
    job,
    parse_sacct,
    parse_squeue,
    sbatch,
    tasks,
)
from tests.plugins.recordings import RECORDED, Player, order, recorded
from tests.rig.waiting import until

TAG = Tag("aabcdtag")


def plugin(root, *answers, **options):
    player = Player(list(answers))
    return Slurm(SlurmOptions(**options), root, "aabcd", run=player), player


def one(state, reason="None", root=Path("/nowhere")):
    (found,) = parse_squeue(f"17|3|{state}|{reason}|n1|{TAG}\n", "aabcd", root)
    return found


def test_nodes_to_avoid_are_named_as_slurm_names_them(tmp_path):
    asked = replace(order(tmp_path, 1), exclude_nodes=("n7.site.example", "n3"))
    assert "--exclude=n3,n7" in sbatch(SlurmOptions(), asked, TAG)
    assert not any("--exclude" in word for word in sbatch(SlurmOptions(), order(tmp_path, 1), TAG))


@pytest.mark.parametrize("row", ["17_4|COMPL", "17|COMPLETED|0:0", "17_4|COMPLETED|0:0|n1|n2"])
def test_half_a_row_of_the_accounts_is_no_answer(row):
    with pytest.raises(BatchError, match="sacct: a row of"):
        list(parse_sacct(f"17_3|COMPLETED|0:0|n1\n{row}\n", TAG, Path("/nowhere")))


# --- states ---------------------------------------------------------------------------------------

STATES = {
    "PENDING": Phase.QUEUED, "REQUEUED": Phase.QUEUED, "REQUEUE_FED": Phase.QUEUED,
    "CONFIGURING": Phase.QUEUED, "POWER_UP_NODE": Phase.QUEUED,
    "REQUEUE_HOLD": Phase.HELD, "SPECIAL_EXIT": Phase.HELD, "RESV_DEL_HOLD": Phase.HELD,
    "SUSPENDED": Phase.HELD, "STOPPED": Phase.HELD,
    "RUNNING": Phase.STARTING, "RESIZING": Phase.STARTING, "SIGNALING": Phase.STARTING,
    "EXPEDITING": Phase.STARTING, "COMPLETING": Phase.DRAINING, "STAGE_OUT": Phase.DRAINING,
    "UPDATE_DB": Phase.DRAINING,
}  # fmt: skip
ENDINGS = {
    "COMPLETED": Ending.DONE, "TIMEOUT": Ending.WALLTIME, "DEADLINE": Ending.WALLTIME,
    "PREEMPTED": Ending.PREEMPTED, "NODE_FAIL": Ending.NODE_FAIL, "BOOT_FAIL": Ending.NODE_FAIL,
    "LAUNCH_FAILED": Ending.NODE_FAIL, "RECONFIG_FAIL": Ending.NODE_FAIL,
    "OUT_OF_MEMORY": Ending.OOM, "CANCELLED": Ending.CANCELLED, "REVOKED": Ending.CANCELLED,
    "FAILED": Ending.FAILED,
}  # fmt: skip


@pytest.mark.parametrize(("state", "phase"), STATES.items())
def test_each_state_that_goes_on_has_a_phase(state, phase):
    assert (one(state).phase, one(state).ending) == (phase, None)


@pytest.mark.parametrize(("state", "ending"), ENDINGS.items())
def test_each_state_that_ends_has_an_ending(state, ending):
    assert (one(state).phase, one(state).ending) == (Phase.ENDED, ending)


@given(
    st.text(st.characters(codec="ascii", categories=["Lu"], include_characters="_+"), max_size=30)
)
def test_e4_a_state_that_we_do_not_know_is_no_verdict(state):
    if state not in {*STATES, *ENDINGS}:
        found = one(state)
        assert (found.phase, found.ending) == (None, None)
        assert state in found.detail


@pytest.mark.parametrize(
    "reason", ["JobHeldUser", "JobHeldAdmin", "launch_failed_requeued_held", "BadConstraints"]
)
def test_what_waits_for_somebody_is_held_and_says_why(reason):
    assert (one("PENDING", reason).phase, one("PENDING", reason).detail) == (Phase.HELD, reason)


# --- listings -------------------------------------------------------------------------------------


def as_we_ask(text):
    """Rows of the recorded format in the order of ours."""
    for line in text.splitlines():
        _, _, job, task, name, state, reason, nodes = line.split("|")
        yield f"{job}|{task}|{state}|{reason}|{nodes}|{name}\n"


def test_a_recorded_listing_is_read_by_task():
    text = "".join(as_we_ask((RECORDED / "slurm" / "squeue_t_all_end.out").read_text()))
    found = {f"{row.tag}.{row.index}": row for row in parse_squeue(text, "arr", Path("/nowhere"))}
    assert found["arrok.3"].ending is Ending.DONE
    assert found["arr.0"].ending is Ending.CANCELLED
    assert found["arr.9"].ending is Ending.CANCELLED  # of a line for 3-4,6-9
    assert "arr.5" not in found


@given(st.text(max_size=300))
def test_no_text_at_all_breaks_the_reader(text):
    with suppress(BatchError):
        found = list(parse_squeue(text, "aabcd", Path("/nowhere")))
        assert all(one.tag.startswith("aabcd") for one in found)


def test_one_command_lists_all(tmp_path):
    batch, player = plugin(tmp_path, Ran(0))
    assert batch.listing() == ()
    (asked,) = player.asked
    assert asked[0] == "squeue"
    assert "--states=all" in asked


# --- history --------------------------------------------------------------------------------------


def test_a_recorded_history_is_read_by_task():
    text = (RECORDED / "slurm" / "sacct_X_P.out").read_text()
    found = {row.batch_id: row for row in parse_sacct(text, TAG, Path("/nowhere"))}
    assert found["1350_3"].ending is Ending.DONE
    assert found["1349_0"].ending is Ending.CANCELLED  # "CANCELLED by 2001"


def test_tasks_that_never_began_share_a_line():
    text = "1349_[3-4,6-9%3]|CANCELLED by 0|0:0|None assigned\n"
    found = list(parse_sacct(text, TAG, Path("/nowhere")))
    assert [row.index for row in found] == [3, 4, 6, 7, 8, 9]
    assert {row.ending for row in found} == {Ending.CANCELLED}


def test_the_queue_knows_better_than_the_history(tmp_path):
    past = Ran(0, "17_0|FAILED|0:0|n1\n17_1|COMPLETED|0:0|n1\n")
    batch, player = plugin(tmp_path, past, Ran(0, f"17|0|TIMEOUT|TimeLimit|n1|{TAG}\n"))
    found = {one.index: one.ending for one in batch.find(TAG)}
    assert found == {0: Ending.WALLTIME, 1: Ending.DONE}
    asked = " ".join(player.asked[0])
    assert "--state=COMPLETED,TIMEOUT," in asked  # not what they only believe to run
    assert "--endtime=now" in asked


def test_what_was_cancelled_before_it_might_begin_has_a_line_without_tasks(tmp_path):
    for index in range(3):
        (tmp_path / TAG / str(index)).mkdir(parents=True)
    text = "17|CANCELLED by 0|0:0|None assigned\n17_1|COMPLETED|0:0|n1\n"
    found = {one.index: one.ending for one in parse_sacct(text, TAG, tmp_path)}
    assert found == {0: Ending.CANCELLED, 1: Ending.DONE, 2: Ending.CANCELLED}
    assert not list(parse_sacct("17|CANCELLED by 0|0:0|None assigned\n", TAG, Path("/nowhere")))


def test_a_site_without_accounts_is_asked_once(tmp_path):
    none = Ran(1, "", "Slurm accounting storage is disabled\n")
    batch, player = plugin(tmp_path, none, Ran(0), Ran(0))
    assert batch.find(TAG) == ()
    assert batch.find(TAG) == ()
    assert [argv[0] for argv in player.asked] == ["sacct", "squeue", "squeue"]


def test_b4_accounts_that_are_down_are_no_absence(tmp_path):
    batch, _ = plugin(tmp_path, Ran(1, "", "sacct: error: Problem talking to the database\n"))
    with pytest.raises(BatchError, match="Problem talking"):
        batch.find(TAG)


# --- submissions ----------------------------------------------------------------------------------


def test_an_accepted_array_has_an_id_for_each_worker(tmp_path):
    batch, _ = plugin(tmp_path, recorded("slurm", "sbatch_array_parsable"))
    assert batch.submit(order(tmp_path, 2), TAG) == Accepted({0: "1349_0", 1: "1349_1"})


def test_an_order_is_one_command_with_all_that_the_slot_asks(tmp_path):
    batch, player = plugin(tmp_path, Ran(0, "17;c1\n"), account="a", partition="std", cluster="c1")
    asked = order(tmp_path, 50, gpus=2, wait_s=60, extra={"partition": "gpu", "memory": False})
    assert len(batch.submit(asked, TAG).ids) == 50
    (argv,) = player.asked
    wanted = {"--array=0-49", "--partition=gpu", "--account=a", "--gpus-per-node=2", "--no-requeue",
              "--time=2:00:00", "--signal=B:USR1@60", "--deadline=now+7260", "--clusters=c1"}  # fmt: skip
    assert wanted <= set(argv)
    assert not any(word.startswith("--mem") for word in argv)


def test_a_percent_sign_in_a_path_is_no_placeholder():
    argv = sbatch(SlurmOptions(), order(Path("/a%b")), TAG)
    assert "--output=/a%%b/%a/stdout" in argv


def test_an_allocation_of_several_nodes_has_a_worker_on_each(tmp_path):
    from harvester_edge.ports import nodes_of

    tag = Tag("aabcdabcdefg9ea")  # 4 nodes
    assert nodes_of(tag) == 4
    asked = replace(order(tmp_path, 8), nodes=4)
    batch, player = plugin(tmp_path, Ran(0, "17\n"))
    ids = batch.submit(asked, tag).ids
    assert [ids[n] for n in range(8)] == ["17_0"] * 4 + ["17_1"] * 4
    assert {"--array=0-1", "--nodes=4", "--ntasks-per-node=1", "--no-kill"} <= set(player.asked[0])
    found = parse_squeue(f"17|1|RUNNING|None|n[1-4]|{tag}\n", "aabcd", tmp_path)
    assert [(one.batch_id, one.index) for one in found] == [("17_1", n) for n in range(4, 8)]
    ended = parse_sacct("17_0|TIMEOUT|0:15|n[1-4]\n", tag, tmp_path)
    assert [one.index for one in ended] == [0, 1, 2, 3]


SRUN = """#!/bin/sh
# Runs the command once for each task, as srun does on as many nodes.
for word in "$@"; do case $word in --ntasks=*) count=${word#*=} ;; --relative=*) first=${word#*=} ;; esac; done
while [ "$1" != /bin/sh ]; do shift; done
while [ "${task:=0}" -lt $count ]; do SLURM_PROCID=$task SLURM_ARRAY_TASK_ID=2 "$@"; task=$((task + 1)); done
[ "$first" != 0 ] || exit 7
"""


@pytest.mark.parametrize(("nodes", "steps"), [(4, 4), (16, 16), (20, 10), (33, 11)])
def test_the_pilots_of_an_allocation_start_in_steps_of_few_nodes(tmp_path, nodes, steps):
    asked = replace(order(tmp_path, nodes), nodes=nodes)
    for number in range(2 * nodes, 3 * nodes):
        (asked.directory / str(number)).mkdir(parents=True)
    (asked.directory / "script").write_text("echo $AILURUS_INDEX")
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    script = job(asked)
    assert script.count("srun ") == steps
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        timeout=30,
        check=False,
    )
    # That of the step which failed.
    assert done.returncode == 7
    told = [(asked.directory / str(n) / "stdout").read_text() for n in range(2 * nodes, 3 * nodes)]
    assert told == [f"{number}\n" for number in range(2 * nodes, 3 * nodes)]


def test_a_batch_script_that_is_signalled_waits_for_its_pilots(tmp_path):
    asked = replace(order(tmp_path, 4), nodes=4)
    (tmp_path / "srun").write_text(
        f"#!/bin/sh\ntouch {tmp_path}/up.$$; sleep 1; touch {tmp_path}/end.$$\n"
    )
    (tmp_path / "srun").chmod(0o755)
    script = subprocess.Popen(
        ["/bin/sh", "-c", job(asked)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    until(lambda: len(list(tmp_path.glob("up.*"))) == 4)
    script.terminate()
    script.wait(10)
    assert len(list(tmp_path.glob("end.*"))) == 4


def test_one_worker_may_have_all_nodes_of_its_allocation(tmp_path):
    asked = replace(order(tmp_path, 2, gpus=2), nodes=4, head=True)
    batch, player = plugin(tmp_path, Ran(0, "17\n"))
    assert batch.submit(asked, TAG).ids == {0: "17_0", 1: "17_1"}
    assert {
        "--array=0-1", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1", "--no-kill",
        "--gpus-per-node=2", f"--output={tmp_path}/%a/stdout", "--signal=B:USR1@60",
    } <= set(player.asked[0])  # fmt: skip
    assert player.asked[0][-1] == str(tmp_path / "script")
    found = parse_squeue(f"17|1|RUNNING|None|n[1-4]|{TAG}\n", "aabcd", tmp_path)
    assert [(one.batch_id, one.index) for one in found] == [("17_1", 1)]


@pytest.mark.parametrize("nodes", [1, 2, 31, 32, 33, 1023])
def test_a_tag_tells_the_nodes_of_its_allocations(nodes):
    from harvester_edge.ports import nodes_of, nodes_suffix

    assert nodes_of("aabcdaaaaa" + nodes_suffix(nodes)) == nodes


@given(st.text("ab9Z_é", max_size=9))
def test_no_name_at_all_breaks_the_count_of_its_nodes(name):
    from harvester_edge.ports import nodes_of

    assert 1 <= nodes_of(name) <= 1023


def test_a_short_worker_is_told_to_stop_in_its_last_tenth():
    argv = sbatch(SlurmOptions(), order(Path("/a"), walltime_s=300), TAG)
    assert "--signal=B:USR1@30" in argv


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "indices"), [("3", [3]), ("0-2%1", [0, 1, 2]), ("1,4-8:2", [1, 4, 6, 8]), ("N/A", [])]
)
def test_task_lists(text, indices):
    assert tasks(text) == indices


def test_all_states_are_tested_here():
    assert set(slurm.PHASE) | set(slurm.ENDING) == {*STATES, *ENDINGS}


# --- a history that is bounded, refused or kept by nobody -----------------------------------------

WIDE = Ran(1, "", "sacct: error: slurmdbd: Too wide of a date range in query\n")


@pytest.mark.field("K2")
@pytest.mark.parametrize(
    ("age_s", "start"),
    [(30, "now-61minutes"), (7200, "now-180minutes"), (86400.0, "now-1500minutes")],
)
def test_accounts_are_asked_from_the_orders_own_time_on(tmp_path, age_s, start):
    batch, player = plugin(tmp_path, Ran(0))
    batch.find(TAG, (), age_s)
    assert f"--starttime={start}" in player.asked[0]


@pytest.mark.field("K2")
def test_accounts_that_give_a_day_are_asked_for_a_day(tmp_path):
    batch, player = plugin(tmp_path, WIDE, Ran(0, "17_0|COMPLETED|0:0|n1\n"), Ran(0))
    (found,) = batch.find(TAG, (), 20 * 86400)
    assert found.ending is Ending.DONE
    assert "--starttime=now-1440minutes" in player.asked[1]
    batch, _ = plugin(tmp_path, WIDE, WIDE)
    with pytest.raises(BatchError, match="Too wide"):
        batch.find(TAG, (), 20 * 86400)


@pytest.mark.field("K2")
def test_a_site_may_say_that_nobody_keeps_accounts(tmp_path):
    batch, player = plugin(tmp_path, Ran(0), history=False)
    assert batch.find(TAG, (), 60) == ()
    assert [argv[0] for argv in player.asked] == ["squeue"]
    assert not batch.history


@pytest.mark.field("K3")
def test_a_job_that_lost_its_name_is_found_by_its_id(tmp_path):
    renamed = Ran(0, "17|0|PENDING|Priority||grid-pilot\n17|1|RUNNING|None|n1|grid-pilot\n")
    batch, player = plugin(tmp_path, Ran(0), Ran(0), renamed)
    found = batch.find(TAG, ["17_0", "17_1"], 60)
    assert [(one.tag, one.index, one.phase) for one in found] == [
        (TAG, 0, Phase.QUEUED), (TAG, 1, Phase.STARTING),
    ]  # fmt: skip
    assert all("another name, grid-pilot" in one.detail for one in found)
    assert "--jobs=17" in player.asked[-1]


@pytest.mark.field("K3")
def test_an_id_that_the_controller_does_not_know_is_no_job(tmp_path):
    batch, _ = plugin(tmp_path, Ran(0), Ran(0), recorded("slurm", "err_squeue_unknown"))
    assert batch.find(TAG, ["17_0"], 60) == ()
