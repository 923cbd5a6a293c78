"""What batch systems say of an allocation, read by the plugins of kind `node`: never more nodes,
cores, memory or devices than they gave, or an error that names what nobody understands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import plugins
from ailurus.protocol.errors import AilurusError
from pilot.agents.allocation import allocation_of, kind_of
from pilot.node_ports import Allocation, Share, Starter
from plugins.node import lsf, pbs, slurm
from plugins.node.htcondor import parse_ad

RECORDED = Path(__file__).parents[1] / "recorded"
AGENT = ["/opt/pilot", "--agent", "a b"]
SECRET = {
    "AILURUS_BOOTSTRAP_FILE": "/secret",
    "BEARER_TOKEN": "secret",
    "CUDA_VISIBLE_DEVICES": "0",
}
COMMANDS = ("srun", "pbsdsh", "blaunch", "ssh", "mpirun")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text("utf-8")


SLURM = dict(
    line.split("=", 1) for line in recorded("slurm/environment_three_nodes.out").split("\n") if line
)
QSTAT = recorded("pbs/qstat_f_running_plain.out")
LSF = {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "n1 4 n2 8"}


@pytest.fixture(autouse=True, scope="module")
def path(tmp_path_factory):
    """Where the commands are that start agents; none of them is run."""
    there = tmp_path_factory.mktemp("bin")
    for name in COMMANDS:
        (there / name).touch(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SLURM, "PATH", str(there))
        patch.setitem(LSF, "PATH", str(there))
        patch.setitem(SECRET, "PATH", str(there))
        yield there


def words(starter: Starter) -> list[str]:
    """Its command by its name."""
    return [Path(starter.argv[0]).name, *starter.argv[1:]]


def unasked(argv: Any) -> str:
    raise AilurusError(f"{argv[0]} is not there")


def made(kind: str, environ: Mapping[str, str], **more: Any) -> Allocation:
    plugin = plugins.load("node", kind)
    options = msgspec.convert(more.pop("options", {}), plugin.Options)
    allocation: Allocation = plugin(options, environ, **more)
    return allocation


def pbs_on(tmp_path: Path, *lines: str, qstat: str = "", **more: Any) -> Allocation:
    file = tmp_path / "nodefile"
    file.write_text("".join(f"{line}\n" for line in lines))
    environ = {**SECRET, "PBS_JOBID": "58.pbshost", "PBS_NODEFILE": str(file)}
    ask = (lambda argv: qstat) if qstat else unasked
    return made("pbs", environ, ask=ask, hostname="n1.cluster", **more)


def machine_ad(tmp_path: Path, text: str) -> dict[str, str]:
    (tmp_path / "ad").write_text(text)
    return {"_CONDOR_MACHINE_AD": str(tmp_path / "ad")}


# what holds for all of them ----------------------------------------------------------------------


def cases(tmp_path: Path) -> dict[str, Allocation]:
    return {
        "host": made("host", SECRET, hostname="n1", options={
            "nodes": ["n2", "n1", "n3"], "start": ["ssh", "{node}"]}),
        "htcondor": made("htcondor", {**SECRET, **machine_ad(tmp_path, "Cpus = 2\n")}),
        "lsf": made("lsf", {**SECRET, **LSF}, hostname="n2"),
        "pbs": pbs_on(tmp_path, "n1", "n2", "n3"),
        "slurm": made("slurm", {**SECRET, **SLURM}),
    }  # fmt: skip


@pytest.mark.parametrize("kind", plugins.TABLE["node"])
@pytest.mark.parametrize("apart", [False, True])
def test_an_agent_starts_once_on_each_node_and_is_told_no_secret(kind, apart, tmp_path):
    allocation = cases(tmp_path)[kind]
    others = [share.name for share in allocation.nodes()[1:]]
    starters = allocation.starters(AGENT, others, apart=apart)
    assert sorted(name for one in starters for name in one.nodes) == sorted(others)
    assert not apart or len(starters) == len(others)
    for one in starters:
        assert os.access(one.argv[0], os.X_OK)
        text = " ".join(one.argv)
        assert AGENT[0] in text
        assert AGENT[2] in text
        assert not one.environment.keys() & (SECRET.keys() - {"PATH"})
        assert one.environment["PATH"].startswith(SECRET["PATH"])
    assert allocation.starters(AGENT, []) == ()


@pytest.mark.parametrize("kind", plugins.TABLE["node"])
def test_an_option_that_a_plugin_does_not_know_is_an_error(kind):
    with pytest.raises(AilurusError, match="contains unknown field `strat`"):
        allocation_of(kind, {"strat": ["ssh"]}, {})


@pytest.mark.parametrize("kind", sorted({*plugins.TABLE["node"]} - {"host"}))
def test_without_the_batch_systems_variables_it_is_no_job(kind):
    with pytest.raises(AilurusError, match="is not set, so this is no job of"):
        made(kind, {}).nodes()


def test_the_environment_tells_the_batch_system():
    assert kind_of({"SLURM_JOB_ID": "3"}) == "slurm"
    assert kind_of({"PBS_JOBID": "3"}) == "pbs"
    assert kind_of({"LSB_JOBID": "3"}) == "lsf"
    assert kind_of({"_CONDOR_MACHINE_AD": "/x"}) == "htcondor"
    assert kind_of({}) == "host"


@pytest.mark.parametrize("start", [["ssh"], ["mpirun", "{node}", "{nodes}"]])
def test_a_command_that_names_no_node_or_both_forms_starts_no_agent(start):
    with pytest.raises(AilurusError, match=r"say `\{node\}`"):
        allocation_of("slurm", {"start": start}, SLURM)


def test_a_site_starts_agents_by_its_own_command():
    ssh = made("slurm", SLURM, options={"start": ["ssh", "-o", "BatchMode=yes", "{node}"]})
    assert [words(one) for one in ssh.starters(AGENT, ["n2", "n3"])] == [
        ["ssh", "-o", "BatchMode=yes", name, "/opt/pilot", "--agent", "'a b'"]
        for name in ("n2", "n3")
    ]
    start = ["mpirun", "--host", "{nodes}", "-n", "{count}"]
    (mpirun,) = made("slurm", SLURM, options={"start": start}).starters(AGENT, ["n2", "n3"])
    assert words(mpirun) == ["mpirun", "--host", "n2,n3", "-n", "2", *AGENT]
    assert mpirun.nodes == ["n2", "n3"]


# Slurm -------------------------------------------------------------------------------------------


def test_slurm_gives_what_its_variables_say_this_node_first():
    shares = made("slurm", {**SLURM, "SLURMD_NODENAME": "n2"}).nodes()
    assert shares == tuple(
        Share(name=name, address=name, cores=3, memory_mb=1000) for name in ("n2", "n1", "n3")
    )


@pytest.mark.parametrize(
    ("variables", "cores", "memory", "gpus"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2),8"}, [4, 4, 8], [1000] * 3, None),
        ({"SLURM_MEM_PER_NODE": "0"}, [3] * 3, [None] * 3, None),
        ({"SLURM_MEM_PER_NODE": "", "SLURM_MEM_PER_CPU": "500"}, [3] * 3, [1500] * 3, None),
        ({"SLURM_MEM_PER_NODE": "", "SLURM_MEM_PER_GPU": "9", "SLURM_GPUS_PER_NODE": "a100:2,gpu:v:1"},
         [3] * 3, [27] * 3, 3),
        ({"SLURM_GPUS_PER_NODE": "4"}, [3] * 3, [1000] * 3, 4),
    ],
)  # fmt: skip
def test_slurms_cores_memory_and_devices_of_each_node(variables, cores, memory, gpus):
    shares = made("slurm", {**SLURM, **variables}).nodes()
    assert [share.cores for share in shares] == cores
    assert [share.memory_mb for share in shares] == memory
    assert {share.gpus for share in shares} == {gpus}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("nid[000998-001001,2]", ["nid000998", "nid000999", "nid001000", "nid001001", "nid2"]),
        ("a[1,3]b[01-02],gpu-7.x", ["a1b01", "a1b02", "a3b01", "a3b02", "gpu-7.x"]),
    ],
)
def test_slurms_lists_of_nodes(text, names):
    assert list(slurm.expanded(text)) == names


def test_a_list_of_slurm_that_names_nothing_takes_no_time():
    with pytest.raises(slurm.NotPlain):
        list(slurm.expanded("n[1-999999999][5-1]"))


def test_slurm_itself_expands_a_list_that_is_not_plain():
    asked = []

    def ask(argv):
        asked.append(list(argv))
        return "n1\nn2\nn3\n"

    allocation = made("slurm", {**SLURM, "SLURM_JOB_NODELIST": "n[1x3]"}, ask=ask)
    assert [share.name for share in allocation.nodes()] == ["n1", "n2", "n3"]
    assert asked == [["scontrol", "show", "hostnames", "n[1x3]"]]


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"SLURM_JOB_NODELIST": "-x,n2,n3"}, "SLURM_JOB_NODELIST is '-x': no name of a node"),
        ({"SLURM_JOB_NODELIST": "n[1-999999999]"}, "names 10001 nodes, and 10000 are the most"),
        ({"SLURM_JOB_NODELIST": "n[1-4]"}, "it tells of 3 nodes, and SLURM_JOB_NODELIST of 4"),
        ({"SLURM_JOB_CPUS_PER_NODE": "3(x999999)"}, "a list such as"),
        ({"SLURM_JOB_CPUS_PER_NODE": "many"}, "a list such as"),
        ({"SLURM_MEM_PER_NODE": "1G"}, "SLURM_MEM_PER_NODE is '1G': a number is expected"),
        ({"SLURM_GPUS_PER_NODE": "a100"}, "SLURM_GPUS_PER_NODE is 'a100': a number is expected"),
        ({"SLURMD_NODENAME": "login1"}, "this node is login1, and SLURM_JOB_NODELIST names n1"),
    ],
)
def test_a_variable_of_slurm_that_nobody_understands_is_an_error_that_names_it(variables, error):
    with pytest.raises(AilurusError, match=error.replace("(", r"\(")):
        made("slurm", {**SLURM, **variables}, ask=unasked).nodes()


def test_slurms_agents_are_in_steps_that_outlive_a_node():
    environ = {**SECRET, **SLURM, "SLURM_JOB_CPUS_PER_NODE": "3(x2),8"}
    options = {"srun": ["--network=no_vni"], "steps": 2}
    two, eight = made("slurm", environ, options=options).starters(AGENT, ["n1", "n2", "n3"])
    assert {
        "--nodelist=n1,n2", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=3",
        "--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--overlap",
    } <= {*two.argv}  # fmt: skip
    assert list(two.argv[-4:]) == ["--network=no_vni", *AGENT]
    assert {"--nodelist=n3", "--cpus-per-task=8"} <= {*eight.argv}
    assert two.environment["SLURM_JOB_ID"] == "3"


@pytest.mark.parametrize(
    ("count", "options", "steps"),
    [
        (3, {}, [1, 1, 1]),
        (16, {}, 16 * [1]),
        (20, {}, 10 * [2]),
        (256, {}, 16 * [16]),
        (256, {"steps": 1}, [256]),
        (9, {"steps": 4}, [3, 3, 3]),
    ],
)
def test_a_node_that_comes_back_ends_few_of_slurms_agents(count, options, steps):
    names = [f"n{number}" for number in range(1, count + 1)]
    listed = {"SLURM_JOB_NODELIST": f"n[1-{count}]", "SLURM_JOB_CPUS_PER_NODE": f"4(x{count})"}
    starters = made("slurm", {**SLURM, **listed}, options=options).starters(AGENT, names)
    assert [len(one.nodes) for one in starters] == steps
    assert [name for one in starters for name in one.nodes] == names


@pytest.mark.parametrize(
    ("variables", "said", "left"),
    [
        ({"SLURM_JOB_END_TIME": "1000090"}, "", 90.0),
        ({"SLURM_JOB_END_TIME": "900000"}, "", 0.0),
        ({}, "1-00:00:30\n", 86430.0),
        ({}, "9:59\n", 599.0),
        ({}, "UNLIMITED\n", None),
        ({}, "", None),
    ],
)
def test_slurms_time_left(variables, said, left):
    ask = (lambda argv: said) if said else unasked
    assert made("slurm", {**SLURM, **variables}, ask=ask, now=lambda: 1e6).seconds_left() == left


def test_a_command_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(AilurusError, match="srun, which starts agents, is in no directory"):
        made("slurm", {**SLURM, "PATH": str(tmp_path)}).starters(AGENT, ["n2"])


# PBS ---------------------------------------------------------------------------------------------


def test_pbs_gives_each_host_of_its_file_with_what_the_server_says_of_its_chunks(tmp_path):
    said = {
        "exec_host": "n1/0*4+n2/0*2+n2/1*2",
        "exec_vnode": "(n1[0]:ncpus=2:mem=1gb+n1[1]:ncpus=2:ngpus=1)"
        "+(n2:ncpus=2:mem=102400kb)+(n2:ncpus=2)",
        "Resource_List.walltime": "01:00:00",
        "resources_used.walltime": "00:10:00",
    }
    lines = [f"    {key} = {value}\n" for key, value in said.items()]
    allocation = pbs_on(
        tmp_path, "n2.cluster", "n1.cluster", "n2.cluster", qstat="Job Id: 1\n" + "".join(lines)
    )
    assert allocation.nodes() == (
        Share(name="n1.cluster", address="n1.cluster", cores=4, memory_mb=1024, gpus=1),
        Share(name="n2.cluster", address="n2.cluster", cores=4, memory_mb=100, gpus=0),
    )
    assert allocation.seconds_left() == 3000.0


def test_pbs_as_a_server_has_answered(tmp_path):
    (tmp_path / "nodefile").write_text("pbshost\npbshost\n")
    environ = {"PBS_JOBID": "58.pbshost", "PBS_NODEFILE": str(tmp_path / "nodefile")}
    allocation = made("pbs", environ, ask=lambda argv: QSTAT, hostname="pbshost")
    assert allocation.nodes() == (Share(name="pbshost", address="pbshost", cores=4),)
    assert allocation.seconds_left() is None


def test_pbs_without_an_answer_leaves_the_bounds_to_the_machines(tmp_path):
    allocation = pbs_on(tmp_path, "n1", "n2")
    assert allocation.nodes() == (Share(name="n1", address="n1"), Share(name="n2", address="n2"))


def test_pbs_starts_an_agent_on_the_first_chunk_of_a_host(tmp_path):
    allocation = pbs_on(tmp_path, "n1", "n1", "n2", "n2", "n3")
    argv = [words(one) for one in allocation.starters(AGENT, ["n3", "n2"])]
    assert argv == [["pbsdsh", "-n", "4", "--", *AGENT], ["pbsdsh", "-n", "2", "--", *AGENT]]


@pytest.mark.parametrize(
    ("host", "vnode"),
    [
        ("n1/0*4", "(n1:ncpus=4)+(n2:ncpus=4)"),
        ("n1/0*4", "n1:ncpus=4"),
        ("n1/0", "(n1:ncpus=x)"),
        ("n1/0", "(n1:mem=1zb)"),
        ("n1/0", "(n1:ncpus=4)junk"),
    ],
)
def test_what_pbs_says_and_nobody_understands_is_an_error(host, vnode):
    with pytest.raises(AilurusError):
        pbs.given_hosts(host, vnode)


def test_pbs_without_its_file_is_an_error_that_names_it(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("none", "fifo", "."):
        allocation = made("pbs", {"PBS_JOBID": "1", "PBS_NODEFILE": str(tmp_path / name)})
        with pytest.raises(AilurusError, match=r"PBS_NODEFILE is .*: it cannot be read"):
            allocation.nodes()


# LSF and HTCondor --------------------------------------------------------------------------------


def test_lsf_gives_hosts_and_slots_and_starts_all_agents_by_one_blaunch():
    allocation = made("lsf", LSF, hostname="n2")
    assert [(share.name, share.cores) for share in allocation.nodes()] == [("n2", 8), ("n1", 4)]
    (starter,) = allocation.starters(AGENT, ["n1", "n3"])
    assert words(starter) == ["blaunch", "-n", "-no-shell", "-z", "n1 n3", *AGENT]
    for text in ("n1", "n1 four", "-z 4"):
        with pytest.raises(AilurusError, match="LSB_MCPU_HOSTS"):
            lsf.parse_hosts(text)


def test_htcondor_gives_one_slot_and_refuses_its_parallel_universe(tmp_path):
    ad = 'Machine = "n1"\nCpus = 4\nMemory = 2000\nGPUs = 2\nTotalCpus = 64\n'
    environ = machine_ad(tmp_path, ad)
    (share,) = made("htcondor", environ, hostname="n1").nodes()
    assert share == Share(name="n1", address="n1", cores=4, memory_mb=2000, gpus=2)
    with pytest.raises(AilurusError, match="gave 3 machines, and agents cannot be started"):
        made("htcondor", {**environ, "_CONDOR_NPROCS": "3"}).nodes()
    with pytest.raises(AilurusError, match="no others to start agents on"):
        made("htcondor", environ).starters(AGENT, ["n2"])


# whatever the variables hold ---------------------------------------------------------------------

PIECES = st.text("n[]x,-()0123456789 \n\0a.=+:*/", max_size=40)
PARSERS: dict[str, Callable[[str], object]] = {
    "nodes": lambda text: made("slurm", {**SLURM, "SLURM_JOB_NODELIST": text}, ask=unasked).nodes(),
    "cores": slurm.per_node,
    "time": slurm.parse_left,
    "memory": lambda text: made("slurm", {**SLURM, "SLURM_MEM_PER_NODE": text}).nodes(),
    "gpus": lambda text: made("slurm", {**SLURM, "SLURM_GPUS_PER_NODE": text}).nodes(),
    "hosts": lsf.parse_hosts,
    "vnodes": lambda text: pbs.given_hosts("n1/0+n2/0", text),
    "qstat": pbs.parse_qstat,
    "ad": lambda text: parse_ad(text, "n1"),
}


@pytest.mark.parametrize("name", PARSERS)
def test_any_text_is_read_or_refused(name):
    @settings(max_examples=200)
    @given(PIECES)
    def holds(text):
        with suppress(AilurusError):
            PARSERS[name](text)

    holds()


def test_slurms_ways_to_start_ranks_are_told_where_it_answers():
    asked = []

    def ask(argv):
        asked.append(argv)
        return """MPI plugin types are...
\tpmi2
\tnone
\tcray_shasta
\tpmix
specific pmix plugin versions available: pmix_v4
"""

    assert slurm.Slurm.pmi_types(SLURM, ask) == "cray_shasta|pmi2|pmix"
    assert slurm.Slurm.pmi_types({"PATH": "/nonexistent"}, ask) == ""
    assert asked == [["srun", "--mpi=list"]]
