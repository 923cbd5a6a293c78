"""PBS's plugin on recordings of OpenPBS 23.06.06, and the stand-in held to them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import Accepted, BatchError, Tag
from plugins.batch.commands import Ran
from plugins.batch.pbs import PBS, PBSOptions, parse, qsub, scattered
from tests.plugins.recordings import RECORDED, Player, order, recorded
from tests.rig.waiting import until

TAG = Tag("aabcdtag")
NOWHERE = Path("/nowhere")
STANDIN = Path(__file__).parents[1] / "standins" / "pbs"


def plugin(root, *answers, **options):
    player = Player(list(answers))
    return PBS(PBSOptions(**options), root, "aabcd", run=player), player


def rows(stem, name=""):
    text = (RECORDED / "pbs" / f"{stem}.json.out").read_text()
    return {row.batch_id: row for row in parse(text, name, NOWHERE)}


def one(**job):
    found = {"Jobs": {"17[3].pbshost": {"Job_Name": TAG, **job}}}
    (row,) = parse(json.dumps(found), "aabcd", NOWHERE)
    return row


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "phase"),
    [("Q", Phase.QUEUED), ("W", Phase.QUEUED), ("T", Phase.QUEUED), ("H", Phase.HELD),
     ("R", Phase.STARTING), ("B", Phase.STARTING), ("S", Phase.HELD), ("U", Phase.HELD),
     ("E", Phase.DRAINING)],
)  # fmt: skip
def test_each_state_that_goes_on_has_a_phase(state, phase):
    assert (one(job_state=state).phase, one(job_state=state).ending) == (phase, None)


@given(st.text(max_size=5).filter(lambda text: text not in set("QWTHRBSUEFX")))
def test_e4_a_state_that_we_do_not_know_is_no_verdict(state):
    assert (one(job_state=state).phase, one(job_state=state).ending) == (None, None)


@pytest.mark.parametrize(
    ("stem", "ending"),
    [
        ("qstat_x_finished_ok", Ending.DONE),
        ("qstat_x_fail3", Ending.FAILED),
        ("qstat_x_kill9", Ending.FAILED),
        ("qstat_x_walltime", Ending.WALLTIME),
        ("qstat_x_lostnode", Ending.NODE_FAIL),
        ("qstat_x_qdel_running", Ending.CANCELLED),
        ("qstat_x_qdel_held", Ending.CANCELLED),
    ],
)
def test_each_recorded_end_has_an_ending(stem, ending):
    (row,) = rows(stem).values()
    assert (row.phase, row.ending) == (Phase.ENDED, ending)


@pytest.mark.parametrize(
    ("status", "ending"), [(-27, Ending.OOM), (-28, Ending.FAILED), (265, Ending.FAILED)]
)
def test_the_servers_own_exit_statuses(status, ending):
    assert one(job_state="F", substate=93, Exit_status=status).ending is ending


def test_an_expired_task_whose_end_nobody_tells_has_failed():
    assert one(job_state="X").ending is Ending.FAILED


def test_a_recorded_listing_is_read():
    found = rows("qstat_f_mixed")
    assert found["58"].phase is Phase.STARTING
    assert found["59"].phase is Phase.HELD
    assert found["60"].phase is Phase.QUEUED
    assert found["62"].phase is Phase.HELD
    assert found["62"].detail.startswith("Can Never Run")


def test_a_recorded_array_is_read_by_task():
    found = rows("qstat_f_array_subjobs", "arr")
    assert len(found) == 10
    assert found["66[0]"].phase is Phase.STARTING
    assert found["66[9]"].phase is Phase.QUEUED
    done = rows("qstat_x_array_done", "arr")
    assert {key: row.ending for key, row in done.items()} == {
        f"67[{n}]": Ending.DONE for n in (1, 2, 3)
    }


def test_an_array_without_rows_for_its_tasks_stands_for_them():
    job = {"Job_Name": TAG, "job_state": "Q", "array_indices_submitted": "0-2"}
    text = json.dumps({"Jobs": {"17[].pbshost": job}})
    found = list(parse(text, "aabcd", NOWHERE))
    assert [(row.batch_id, row.phase) for row in found] == [
        (f"17[{n}]", Phase.QUEUED) for n in range(3)
    ]


# --- listings -------------------------------------------------------------------------------------


def test_a_server_without_jobs_is_an_empty_listing(tmp_path):
    batch, player = plugin(tmp_path, recorded("pbs", "qstat_empty.json"))
    assert batch.listing() == ()
    assert len(player.asked) == 1


def test_json_that_others_broke_is_asked_again_for_our_own(tmp_path):
    broken = Ran(0, '{"Jobs":{"1.pbshost":{"Variable_List":{"A":007}}}}\n')
    ours = {"Jobs": {"17.pbshost": {"Job_Name": TAG, "job_state": "R"}}}
    gone = recorded("pbs", "err_qstat_finished_without_x")
    batch, player = plugin(
        tmp_path, broken, Ran(0, "17.pbshost\n18.pbshost\n"), Ran(0, json.dumps(ours) + "\n"), gone,
        user="alice",
    )  # fmt: skip
    assert [row.batch_id for row in batch.listing()] == ["17"]
    assert [argv[0] for argv in player.asked] == ["qstat", "qselect", "qstat", "qstat"]
    assert player.asked[1] == ["qselect", "-u", "alice"]


# --- submissions ----------------------------------------------------------------------------------


def test_an_accepted_job_or_array_has_an_id_for_each_worker(tmp_path):
    batch, _ = plugin(tmp_path, recorded("pbs", "qsub_ok"), recorded("pbs", "qsub_array"))
    assert batch.submit(order(tmp_path), TAG) == Accepted({0: "54"})
    assert batch.submit(order(tmp_path, 2), TAG) == Accepted({0: "66[0]", 1: "66[1]"})


def test_an_order_is_one_command_with_all_that_the_slot_asks():
    options = PBSOptions(queue="q", account="a", project="p", chunk="cpu_type=milan", place="excl")
    argv = qsub(options, order(Path("/a"), 50, gpus=2), TAG)
    text = " ".join(argv)
    for words in ("-J 0-49 -r y", "-N aabcdtag", "-q q", "-A a", "-P p", "-l place=excl",
                  "-l select=1:ncpus=4:mem=2000mb:ngpus=2:cpu_type=milan", "walltime=2:00:00"):  # fmt: skip
        assert words in text
    assert "-r n" in " ".join(qsub(options, order(Path("/a")), TAG))
    assert "-V" not in argv


MANY = Tag("aabcdabcdefg9ea")  # 4 nodes


def test_an_allocation_of_several_nodes_has_a_worker_on_each(tmp_path):
    batch, player = plugin(tmp_path, Ran(0, "17[].pbshost\n"), Ran(0, "18.pbshost\n"))
    ids = batch.submit(order(tmp_path, 8, nodes=4), MANY).ids
    assert [ids[n] for n in range(8)] == ["17[0]"] * 4 + ["17[1]"] * 4
    text = " ".join(player.asked[0])
    assert "-l select=4:ncpus=4:mem=2000mb" in text
    assert "-J 0-1" in text
    assert "-l place=scatter" in text
    assert batch.submit(order(tmp_path, 4, nodes=4), MANY).ids == dict.fromkeys(range(4), "18")
    assert "-J" not in player.asked[1]
    job = {"Job_Name": MANY, "job_state": "R", "substate": 42}
    found = parse(json.dumps({"Jobs": {"17[1].pbshost": job}}), "aabcd", tmp_path)
    assert [(one.batch_id, one.index) for one in found] == [("17[1]", n) for n in range(4, 8)]
    waits = {"Job_Name": MANY, "job_state": "Q", "array_indices_submitted": "0-1"}
    found = list(parse(json.dumps({"Jobs": {"17[].pbshost": waits}}), "aabcd", tmp_path))
    assert [one.index for one in found] == list(range(8))


def test_one_worker_may_have_all_nodes_of_its_allocation(tmp_path):
    batch, player = plugin(tmp_path, Ran(0, "17[].pbshost\n"))
    asked = order(tmp_path, 2, nodes=4, head=True)
    assert batch.submit(asked, TAG).ids == {0: "17[0]", 1: "17[1]"}
    text = " ".join(player.asked[0])
    assert "-l select=4:ncpus=4:mem=2000mb" in text
    assert "-J 0-1" in text
    assert "-l place=scatter" in text
    assert "pbsdsh" not in (tmp_path / "job").read_text()


@pytest.mark.parametrize(
    ("place", "asked"),
    [("", "scatter"), ("excl", "scatter:excl"), ("free:exclhost", "scatter:exclhost"),
     ("scatter:excl", "scatter:excl"), ("pack", "scatter")],
)  # fmt: skip
def test_several_nodes_are_several_hosts_whatever_else_a_site_asks(place, asked):
    assert scattered(place) == asked


# --- the stand-in is no freer than the recordings -------------------------------------------------


@pytest.fixture
def standin(tmp_path):
    (tmp_path / "ok.sh").write_text("exit 0\n")
    (tmp_path / "long.sh").write_text("exec sleep 30\n")

    def call(name, *argv):
        env = {**os.environ, "PBS_STANDIN": str(tmp_path)}
        done = subprocess.run(
            [STANDIN / name, *argv], check=False, capture_output=True, text=True, env=env,
            cwd=tmp_path, timeout=20,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.mark.parametrize(
    ("stem", "argv"),
    [
        ("err_bad_array", ("qsub", "-J", "5-1", "ok.sh")),
        ("err_unknown_queue", ("qsub", "-q", "nosuch", "ok.sh")),
        ("err_queue_disabled", ("qsub", "-q", "closed", "ok.sh")),
        (
            "err_walltime_over_queue_max",
            ("qsub", "-q", "short", "-l", "walltime=01:00:00", "ok.sh"),
        ),
        ("err_unknown_resource", ("qsub", "-l", "select=1:nosuch=1", "ok.sh")),
        ("err_bad_walltime", ("qsub", "-l", "walltime=nonsense", "ok.sh")),
        ("err_no_script", ("qsub", "nosuch.sh")),
        ("err_qdel_unknown", ("qdel", "999999")),
        ("err_qstat_unknown", ("qstat", "-f", "-F", "json", "999999")),
    ],
)
def test_the_standin_refuses_as_the_real_one(standin, stem, argv):
    ours, real = standin(*argv), recorded("pbs", stem)
    assert ours.code == real.code
    assert ours.err.splitlines()[0].rstrip() == real.err.splitlines()[0].rstrip()


def test_the_standin_is_down_as_the_real_one(standin, tmp_path):
    (tmp_path / "down").touch()
    for name, argv in (("qsub", ("ok.sh",)), ("qstat", ("-f", "-F", "json")), ("qdel", ("1",))):
        ours, real = standin(name, *argv), recorded("pbs", f"err_server_down_{name}")
        assert (ours.code, ours.err) == (real.code, real.err)


def test_the_standin_shows_jobs_as_the_real_one(standin):
    def shown(*argv):
        return json.loads(standin("qstat", "-f", "-F", "json", *argv).out)

    assert set(shown()) == set(json.loads(recorded("pbs", "qstat_empty.json").out))
    alone = standin("qsub", "-N", "running", "long.sh").out.strip()
    array = standin("qsub", "-N", "arr", "-J", "0-1", "long.sh").out.strip()
    assert (alone, array) == ("54.pbshost", "55[].pbshost")
    _held(shown()["Jobs"][alone], "qstat_f_running.json", "58.pbshost")
    tasks = shown("-t")["Jobs"]
    _held(tasks[array], "qstat_f_array_subjobs.json", "66[].pbshost")
    _held(tasks["55[1].pbshost"], "qstat_f_array_subjobs.json", "66[1].pbshost")
    assert standin("qdel", "54", "55[]").code == 0
    ended = json.loads((RECORDED / "pbs" / "qstat_x_qdel_running.json.out").read_text())["Jobs"]
    assert ended
    found = {}
    for _ in range(200):
        found = shown("-x").get("Jobs", {})
        if all(job["job_state"] == "F" for job in found.values()):
            break
    _held(found[alone], "qstat_x_qdel_running.json", "82.pbshost")
    assert standin("qdel", "54").code == recorded("pbs", "err_qdel_finished").code
    late = standin("qstat", "-f", "-F", "json", "54.pbshost")
    assert late.code == recorded("pbs", "err_qstat_finished_without_x").code


def test_pbsdsh_of_the_standin_is_as_openpbs_has_it(standin, tmp_path):
    """Usage, exit codes and words of src/cmds/pbsdsh.c; what a task sees, of start_exec.c."""
    usage = standin("pbsdsh")
    assert (usage.code, usage.err.split(" ")[0]) == (1, "Usage:")
    assert standin("pbsdsh", "-c", "1", "-n", "0", "--", "true").code == 1
    assert standin("pbsdsh", "--", "true").err == "pbsdsh: not executing under PBS\n"
    (tmp_path / "task.sh").write_text(f'env > {tmp_path}/task.$PBS_TASKNUM; exit "$PBS_NODENUM"\n')
    (tmp_path / "head.sh").write_text(
        '[ "$PBS_ARRAY_INDEX" = 1 ] || exit 0\n'
        f"cp $PBS_NODEFILE {tmp_path}/nodes\n"
        f"pbsdsh -- /bin/sh {tmp_path}/task.sh > {tmp_path}/said; echo $? > {tmp_path}/code.new\n"
        f"mv {tmp_path}/code.new {tmp_path}/code\n"
    )
    assert standin("qsub", "-l", "select=2:ncpus=1:mpiprocs=2", "-J", "0-1", "head.sh").code == 0
    until((tmp_path / "code").exists, 20, "it ran")
    assert (tmp_path / "code").read_text() == "0\n"
    first, *_, last = (tmp_path / "nodes").read_text().split()
    assert first != last
    said = (tmp_path / "said").read_text()
    assert said == "".join(f"pbsdsh: task 0x{n:08X} exit status 1\n" for n in (2, 3))
    tasks = [dict(line.partition("=")[::2] for line in file.read_text().splitlines())
             for file in tmp_path.glob("task.0*")]  # fmt: skip
    assert sorted(task["PBS_NODENUM"] for task in tasks) == ["0", "0", "1", "1"]
    for task in tasks:
        assert task.keys() >= {"HOME", "PBS_JOBID", "PBS_JOBCOOKIE", "PBS_MOMPORT", "NCPUS"}
        assert not task.keys() & {"PBS_NODEFILE", "PBS_ARRAY_INDEX", "USER", "LOGNAME", "SHELL"}


def test_the_standin_loses_a_node_as_the_real_one(standin):
    alone = standin("qsub", "-N", "lostnode", "-r", "n", "long.sh").out.strip()
    assert standin("lose", "pbshost").code == 0
    found = json.loads(standin("qstat", "-x", "-f", "-F", "json").out)["Jobs"]
    _held(found[alone], "qstat_x_lostnode.json", "77.pbshost")
    assert found[alone]["Exit_status"] == -20
    nodes = json.loads(standin("pbsnodes", "-a", "-F", "json").out)["nodes"]
    real = json.loads(recorded("pbs", "pbsnodes_down.json").out)["nodes"]["pbshost"]
    assert nodes["pbshost"]["state"] == real["state"] == "down"


def test_the_standin_runs_again_as_the_real_one(standin):
    alone = standin("qsub", "-N", "rerunme", "long.sh").out.strip()
    assert standin("qrerun", alone).code == 0
    found = json.loads(standin("qstat", "-f", "-F", "json").out)["Jobs"]
    real = json.loads(recorded("pbs", "qstat_f_rerun.json").out)["Jobs"]["69.pbshost"]
    for key in ("job_state", "run_count", "Rerunable"):
        assert found[alone][key] == real[key]
    assert standin("qdel", alone).code == 0


def test_the_standin_shows_queues_and_nodes_as_the_real_one(standin):
    for name, argv, stem, key in (
        ("qstat", ("-Q", "-f", "-F", "json"), "qstat_Q.json", "Queue"),
        ("qstat", ("-B", "-f", "-F", "json"), "qstat_B.json", "Server"),
        ("pbsnodes", ("-a", "-F", "json"), "pbsnodes.json", "nodes"),
    ):
        ours = json.loads(standin(name, *argv).out)[key]
        real = json.loads(recorded("pbs", stem).out)[key]
        assert ours.keys() >= real.keys()
        for one in real:
            assert ours[one].keys() <= real[one].keys()
            for each in (
                "resources_max",
                "enabled",
                "started",
                "state",
                "resources_available",
                "default_queue",
            ):
                assert ours[one].get(each) == real[one].get(each)


def test_the_standin_never_runs_what_does_not_fit_as_the_real_one(standin):
    job = standin("qsub", "-N", "neverfits", "-l", "select=1:ncpus=99", "long.sh").out.strip()
    found = json.loads(standin("qstat", "-f", "-F", "json").out)["Jobs"][job]
    real = json.loads(recorded("pbs", "qstat_f_neverfits.json").out)["Jobs"]["62.pbshost"]
    for key in ("job_state", "substate", "comment"):
        assert found[key] == real[key]


def _held(ours, stem, batch_id):
    """Ours has no key that the real one lacks, and the same values where they are states."""
    real = json.loads(recorded("pbs", stem).out)["Jobs"][batch_id]
    assert ours.keys() <= real.keys()
    for key in ("job_state", "substate", "Exit_status", "array_index"):
        assert type(ours.get(key)) is type(real.get(key))
    for key in ("job_state", "substate"):
        assert ours[key] == real[key]


# --- a server without history, PBS's default ------------------------------------------------------


def server(history: str) -> Ran:
    told = {"default_queue": "workq"} | ({"job_history_enable": history} if history else {})
    return Ran(0, json.dumps({"Server": {"pbshost": told}}) + "\n")


NO_HISTORY = Ran(1, "", "qselect: PBS is not configured to maintain job history\n")


@pytest.mark.field("K2")
@pytest.mark.parametrize("history", ["", "False"])
def test_a_server_that_keeps_no_history_says_so_of_itself(tmp_path, history):
    batch, player = plugin(tmp_path, NO_HISTORY, server(history), Ran(0), Ran(0))
    assert batch.find(TAG, (), 60) == ()
    assert not batch.history
    batch.find(TAG, (), 60)
    asked = [" ".join(argv[:2]) for argv in player.asked]
    assert asked == ["qselect -x", "qstat -B", "qselect -N", "qselect -N"]


@pytest.mark.field("K2")
def test_a_history_that_fails_though_it_is_kept_is_no_absence(tmp_path):
    batch, _ = plugin(tmp_path, Ran(1, "", "qselect: End of File\n"), server("True"))
    with pytest.raises(BatchError, match="End of File"):
        batch.find(TAG, (), 60)
    batch, _ = plugin(tmp_path, recorded("pbs", "err_server_down_qstat"))
    with pytest.raises(BatchError):
        batch.find(TAG, (), 60)


@pytest.mark.field("K3")
def test_a_job_that_lost_its_name_is_found_by_its_id(tmp_path):
    jobs = {f"17[{nr}].pbshost": {"Job_Name": "grid", "job_state": "Q"} for nr in range(2)}
    shown = Ran(0, json.dumps({"Jobs": jobs}) + "\n")
    batch, player = plugin(tmp_path, Ran(0), shown)
    found = batch.find(TAG, ["17[0]", "17[1]"], 60)
    assert [(one.tag, one.index, one.phase) for one in found] == [
        (TAG, 0, Phase.QUEUED), (TAG, 1, Phase.QUEUED),
    ]  # fmt: skip
    assert all("another name, grid" in one.detail for one in found)
    assert player.asked[-1][-1] == "17[]"
    batch, _ = plugin(tmp_path, Ran(0), recorded("pbs", "err_qstat_unknown"))
    assert batch.find(TAG, ["17"], 60) == ()


# --- other users' jobs ----------------------------------------------------------------------------


def listed(**owners: str) -> str:
    job = {"Job_Name": TAG, "job_state": "R"}
    jobs = {f"{nr}.pbshost": {**job, "Job_Owner": f"{name}@host"} for nr, name in owners.items()}
    return json.dumps({"Jobs": jobs}) + "\n"


@pytest.mark.parametrize(
    ("options", "more"),
    [({"user": "alice"}, []), ({"prefix": ["ssh", "login"]}, [Ran(0, "alice\n")])],
)
def test_a_job_that_another_user_gave_our_name_is_not_ours(tmp_path, options, more):
    both = listed(**{"17": "mallory", "18": "alice"})
    batch, player = plugin(tmp_path, Ran(0, both), *more, Ran(0, both), **options)
    for _ in range(2):
        assert [row.batch_id for row in batch.listing()] == ["18"]
    assert len(player.asked) == 2 + len(more)


def test_who_runs_the_commands_is_asked_of_the_system_not_of_its_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "mallory")
    me = pwd.getpwuid(os.geteuid()).pw_name
    batch, _ = plugin(tmp_path, Ran(0, listed(**{"17": "mallory", "18": me})))
    assert [row.batch_id for row in batch.listing()] == ["18"]


def test_a_prefix_that_knows_no_id_shows_all_of_our_name(tmp_path):
    refused = Ran(127, "", "id: not allowed")
    both = listed(**{"17": "mallory", "18": "alice"})
    batch, _ = plugin(tmp_path, Ran(0, both), refused, prefix=["gate"])
    assert len(batch.listing()) == 2


def test_a_search_asks_for_our_own_jobs(tmp_path):
    batch, player = plugin(tmp_path, Ran(0, ""), user="alice", history=False)
    assert batch.find(TAG) == ()
    assert player.asked[0] == ["qselect", "-N", TAG, "-u", "alice"]
