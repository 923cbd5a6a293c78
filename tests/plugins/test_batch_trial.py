"""Whether PBS and HTCondor would start a worker, by what they say of queues, nodes and machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester_edge.ports import BatchError, Tag
from plugins.batch import pbs_fit as fit
from plugins.batch.commands import Ran
from plugins.batch.htcondor import HTCondor, HTCondorOptions, demanded
from plugins.batch.pbs import PBS, PBSOptions
from tests.plugins.recordings import HUNG, Player, order, recorded

TAG = Tag("aabcdtag")

# --- PBS ------------------------------------------------------------------------------------------


def pbs(tmp_path, *, nodes="pbsnodes.json", ask=None, **options):
    """What the recorded server would say of an order; it has one node of 32 cores and 32 GB."""
    answers = [recorded("pbs", stem) for stem in ("qstat_Q.json", nodes)]
    if "queue" not in options:
        answers.insert(0, recorded("pbs", "qstat_B.json"))
    player = Player(answers)
    batch = PBS(PBSOptions(**options), tmp_path, "aabcd", run=player)
    said = batch.trial(order(tmp_path, **(ask or {})), TAG)
    asked = {argv[0] for argv in player.asked}
    assert asked <= {"qstat", "pbsnodes"}  # which change nothing
    return said


@pytest.mark.parametrize(
    ("options", "ask", "said"),
    [
        ({}, {}, ""),
        ({"queue": "workq"}, {"cores": 32, "memory_mb": 32 * 1024}, ""),
        ({"queue": "nosuch"}, {}, "there is no queue nosuch; there are closed, short, workq"),
        ({"queue": "closed"}, {}, "queue closed takes no job"),
        ({"queue": "short"}, {}, "queue short wants walltime at most 00:10:00; a worker asks for 120"),
        ({"queue": "short"}, {"walltime_s": 600}, ""),
        ({}, {"cores": 33}, "0 of 1 hosts that serve queue workq have ncpus=33"),
        ({}, {"memory_mb": 33 * 1024}, "0 of 1 hosts"),
        ({"memory": False}, {"memory_mb": 33 * 1024}, ""),
        ({}, {"gpus": 1}, "ngpus=1"),
        ({"chunk": "arch=linux"}, {}, ""),
        ({"chunk": "arch=vms:mpiprocs=2"}, {}, "arch=vms"),
        ({"chunk": "mpiprocs=2"}, {}, ""),
        ({}, {"nodes": 2, "count": 2}, "1 of 1 hosts that serve queue workq"),
    ],
)  # fmt: skip
def test_pbs_says_why_it_would_never_start_a_worker(tmp_path, options, ask, said):
    found = pbs(tmp_path, ask=ask, **options)
    assert (said in found) if said else (found == "")


def test_pbs_whose_nodes_are_all_down_says_so(tmp_path):
    assert "down or offline" in pbs(tmp_path, nodes="pbsnodes_down.json")


@pytest.mark.parametrize("answer", [recorded("pbs", "err_server_down_qstat"), Ran(0, "Hi\n"), HUNG])
def test_pbs_that_does_not_answer_is_no_refusal(tmp_path, answer):
    batch = PBS(PBSOptions(queue="workq"), tmp_path, "aabcd", run=Player([answer]))
    with pytest.raises(BatchError):
        batch.trial(order(tmp_path), TAG)


def node(host, queue="", state="free", **more):
    have = {"host": host, "ncpus": 8, "mem": "16gb", **more}
    return fit.Node(state=state, queue=queue, resources_available=have)


ASKED = fit.Requested(chunk={"ncpus": 16}, hosts=1, walltime_s=60)
QUEUES = {"q": fit.Queue(), "big": fit.Queue(), "route": fit.Queue(queue_type="Route")}


@pytest.mark.parametrize(
    ("name", "nodes", "would"),
    [
        ("q", [node("a"), node("a")], True),  # two vnodes of one host
        ("q", [node("a"), node("b")], False),
        ("q", [node("a", ncpus=16, queue="big")], False),  # serves another queue only
        ("big", [node("a", ncpus=16, queue="big")], True),
        ("big", [node("a", queue="big"), node("b", ncpus=16)], False),  # runs only there
        ("q", [node("a", ncpus=16, state="job-busy")], True),
        ("q", [node("a", ncpus=16, state="state-unknown,down")], False),
        ("q", [], False),
        ("route", [], True),  # where it leads to is not known
    ],
)
def test_pbs_counts_hosts_as_its_scheduler_does(name, nodes, would):
    said = fit.why_not(ASKED, name, QUEUES, {str(n): one for n, one in enumerate(nodes)})
    assert (said == "") is would, said


def test_a_minimum_of_a_queue_counts_all_hosts_of_an_allocation():
    queues = {"q": fit.Queue(resources_min={"nodect": 2, "ncpus": 30})}
    nodes = {"1": node("a", ncpus=16), "2": node("b", ncpus=16)}
    assert "nodect at least 2" in fit.why_not(ASKED, "q", queues, nodes)
    two = fit.Requested(chunk={"ncpus": 16}, hosts=2, walltime_s=60)
    assert fit.why_not(two, "q", queues, nodes) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [("00:10:00", 600), ("72:00:00", 259200), ("32gb", 32 << 30), ("5kb", 5120), (7, 7), ("7", 7),
     ("linux", None), (True, 1), ("", None)],
)  # fmt: skip
def test_numbers_of_pbs(text, value):
    assert fit.number(text) == value


@given(st.text(max_size=20))
def test_no_value_at_all_breaks_the_count(text):
    host = {"ncpus": text, text: text}
    assert isinstance(fit.fits({"ncpus": 4, "x": text}, host), bool)
    assert not fit.fits({"ncpus": 4}, {**host, "ncpus": "3"})


# --- HTCondor -------------------------------------------------------------------------------------

ONE = Ran(0, '[\n{\n  "TotalSlotCpus": 96,\n  "TotalSlotMemory": 96000\n}\n]\n')


def condor(tmp_path, *answers, **options):
    player = Player(list(answers))
    batch = HTCondor(HTCondorOptions(**options), tmp_path, "aabcd", run=player)
    said = batch.trial(order(tmp_path), TAG)
    assert all(argv[0] == "condor_status" or "-dry-run" in argv for argv in player.asked)
    return said, player.asked


def test_htcondor_with_room_and_without(tmp_path):
    said, asked = condor(tmp_path, Ran(0), ONE)
    assert (said, len(asked)) == ("", 2)
    assert "TotalSlotCpus >= 4 && TotalSlotMemory >= 2000" in " ".join(asked[1])
    said, _ = condor(tmp_path, Ran(0), Ran(0), ONE)
    assert "no machine of the pool has 4 cores, 2000 MB" in said
    assert "the largest of 1 has 96 cores, 96000 MB" in said
    assert condor(tmp_path, Ran(0), Ran(0))[0] == "the pool shows no machine"


def test_htcondor_none_of_whose_machines_meets_the_requirements(tmp_path):
    wish = {"requirements": 'TARGET.Machine == "nowhere"'}
    said, asked = condor(tmp_path, Ran(0), ONE, Ran(0), **wish)
    assert "meets `requirements`" in said
    assert '&& (Machine == "nowhere")' in " ".join(asked[2])


def test_htcondor_refuses_a_file_that_it_cannot_read(tmp_path):
    wrong = Ran(1, "", "ERROR: Parse error in expression\n")
    assert "Parse error" in condor(tmp_path, wrong, requirements="((")[0]


def test_requirements_that_speak_of_the_job_are_no_question_to_a_machine():
    assert demanded("TARGET.Memory > 10 && my.X") == ""
    assert demanded("target.Memory > 10") == "Memory > 10"


def test_htcondor_that_does_not_answer_is_no_refusal(tmp_path):
    with pytest.raises(BatchError):
        condor(tmp_path, Ran(0), HUNG)
