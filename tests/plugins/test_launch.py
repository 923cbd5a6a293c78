"""Plans of launchers: pure, whole, and safe whatever a job's options say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import plugins
from ailurus.protocol.launchers import OPTIONS, MpiOptions
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.submission import check, jobs_from
from harvester_edge import lint
from pilot.node_ports import Elastic, Plan, Program
from pilot.ports import JobError
from plugins.launch.mpi import STARTERS, settings_text
from plugins.launch.texts import package_found
from tests.plugins.launches import launch

ALL = list(plugins.TABLE["launch"])
HOSTILE = "$(touch bad); `touch bad` ' \" \\ & | > bad\n"


def planned(name: str, options: Mapping[str, Any], job: Program) -> Plan:
    kind = plugins.load("launch", name)
    plan = kind(msgspec.convert(options, kind.Options)).plan(job)
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("name", ALL)
def test_a_launchers_options_are_those_that_a_submission_is_checked_by(name: str) -> None:
    assert plugins.load("launch", name).Options is OPTIONS[name]


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_a_plan_is_one_process_with_the_jobs_command_in_it(name: str, nodes: int) -> None:
    """Its files are plain names, and without a node to ask it comes out the same again."""
    names = ["q1", "q2", "q3"][:nodes]
    job = launch(Path("/job/launch"), ["/bin/sh", "-c", "./go 'a b'"], names=names)
    plan = planned(name, {}, job)
    command = plan.files.get("command.sh", shlex.join(plan.argv))
    assert command.rstrip().endswith("/bin/sh -c './go '\"'\"'a b'\"'\"''"), command
    assert all("/" not in file for file in plan.files)
    assert plan == planned(name, {}, job)


def test_the_scripts_of_plans_are_the_shells_of_any_image(tmp_path: Path) -> None:
    for name in ALL:
        for file, text in planned(name, {}, launch(tmp_path, ["true"])).files.items():
            if file.endswith(".sh"):
                (tmp_path / file).write_text(text)
                subprocess.run(["/bin/sh", "-n", tmp_path / file], check=True)


def test_torchrun_tells_each_worker_its_place() -> None:
    job = launch(Path("/job/launch"), ["./train"], gpus=2)
    settings = planned("torchrun", {}, job).files["settings.sh"]
    # One a GPU.
    assert "each=2\n" in settings
    assert "world=6\n" in settings
    other = planned("torchrun", {}, msgspec.structs.replace(job, mark="18.1"))
    assert other.files["settings.sh"] != settings, "its neighbour has another port"
    elastic = planned("torchrun", {"elastic": True}, job).files["settings.sh"]
    assert '"-m" "torch.distributed.run"' in elastic
    assert "agent" not in settings


def test_horovod_meets_by_gloo_or_is_an_mpi_program() -> None:
    job = launch(Path("/job/launch"), ["./train"])
    gloo = planned("horovod", {"ranks_per_node": 2}, job)
    assert "hosts=q1:2,q2:2,q3:2\n" in gloo.files["settings.sh"]
    assert gloo.environment["HOROVOD_CONTROLLER"] == "gloo"
    mpi = planned("horovod", {"controller": "mpi"}, job)
    assert mpi.environment["HOROVOD_CONTROLLER"] == "mpi"
    assert "ranks=3\n" in mpi.files["settings.sh"]


def test_an_elastic_horovod_has_a_list_of_nodes_that_the_pilot_keeps() -> None:
    job = launch(Path("/job/launch"), ["./train"])
    plan = planned("horovod", {"elastic": True, "min_nodes": 2, "ranks_per_node": 2}, job)
    assert plan.elastic == Elastic(least=2, most=3, listed="nodes")
    assert plan.files["nodes"] == "q1 1\nq2 2\nq3 3\n"
    # A node's workers, and how many there are at least and at most.
    assert plan.argv[-4:] == ["q1", "2", "4", "6"]
    assert planned("horovod", {}, job).elastic is None
    with pytest.raises(JobError, match="begins with 3 nodes"):
        planned("horovod", {"elastic": True, "max_nodes": 2}, job)


def test_a_torchrun_whose_nodes_come_and_go_has_a_list_of_them() -> None:
    job = launch(Path("/job/launch"), ["./train"])
    options = {"elastic": True, "min_nodes": 2, "max_nodes": 4, "ranks_per_node": 2}
    plan = planned("torchrun", options, job)
    assert plan.elastic == Elastic(least=2, most=4, listed="nodes")
    assert plan.files["nodes"] == "q1 1\nq2 2\nq3 3\n"
    assert {"--nnodes=2:4", "--nproc-per-node=2"} < {*plan.argv}
    # With nothing said of its nodes it restarts workers on those that it began with.
    assert planned("torchrun", {"elastic": True}, job).elastic is None
    with pytest.raises(JobError, match="begins with 3 nodes"):
        planned("torchrun", {"elastic": True, "max_nodes": 2}, job)


def test_script_gives_lists_of_nodes_in_the_forms_that_programs_read() -> None:
    plan = planned("script", {"slots_per_node": 2}, launch(Path("/job/launch"), ["./go"]))
    assert plan.files == {
        "nodes": "q1\nq2\nq3\n",
        "hostfile": "q1 slots=2\nq2 slots=2\nq3 slots=2\n",
        "machinefile": "q1:2\nq2:2\nq3:2\n",
    }
    assert plan.environment["AILURUS_HOSTFILE"] == "/job/launch/hostfile"


def test_mpi_has_a_rank_a_core_unless_it_is_told() -> None:
    job = launch(Path("/job/launch"), ["./go"], cores=4)
    assert "ranks=12\n" in planned("mpi", {}, job).files["settings.sh"]
    more = planned("mpi", {"ranks_per_node": 6}, job)
    assert "ranks=18\n" in more.files["settings.sh"]
    # They share CPUs, so a rank that waits gives its own up.
    assert more.environment["OMPI_MCA_mpi_yield_when_idle"] == "1"


@pytest.mark.parametrize("kind", STARTERS)
def test_what_a_job_says_reaches_the_starter_as_it_is(kind: str, tmp_path: Path) -> None:
    """The settings are a script, and nothing in them is one."""
    settings = {"program": HOSTILE, "mpirun": HOSTILE, "ranks": "6"}
    (tmp_path / "settings.sh").write_text(settings_text(settings, [HOSTILE]))
    (tmp_path / "show").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "show").chmod(0o700)
    script = (
        f". ./settings.sh; here=/h found=./show; printf '%s\\0' \"$program\";"
        f"begin {kind} /bin/sh rank.sh {shlex.quote(HOSTILE)}"
    )
    said = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    assert said[0] == HOSTILE
    assert said[-5:-1] == [HOSTILE, "/bin/sh", "rank.sh", HOSTILE]
    assert not (tmp_path / "bad").exists()


def test_every_starter_leaves_cpus_to_the_pilot_and_starts_by_its_shell() -> None:
    for kind, words in STARTERS.items():
        said = " ".join(words)
        assert "bind" in said
        assert "$AILURUS_PILOT_RSH" in said, kind


PAGE = Path(__file__).parents[2] / "docs/parallel.md"


CARRIED = Payloads(list="0" * 32, count=20_000)
EXAMPLES = sorted((Path(__file__).parents[2] / "examples/parallel").glob("*.*"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_guide_prints_each_example_as_it_is(file: Path) -> None:
    assert f"\n{file.read_text('utf-8')}```\n" in PAGE.read_text(), file


def test_the_site_of_the_guide_has_no_fault() -> None:
    (site,) = (file for file in EXAMPLES if file.name == "site.yaml")
    assert [fault for fault in lint.faults(site) if fault.rule.startswith("E")] == []


def test_the_jobs_of_the_guide_can_be_submitted_and_started() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    trees = [tree for block in blocks if "site" not in (tree := yaml.safe_load(block))]
    found = [job for tree in trees for job in jobs_from(tree, payloads=lambda *_: CARRIED)]
    check(found)
    jobs = [job for job in found if job.launcher != "single"]
    assert {job.launcher for job in jobs} == {"mpi", "torchrun", "horovod", "ray"}
    for job in jobs:
        asked = launch(Path("/job/launch"), ["/bin/sh", "-c", job.command], cores=job.cores)
        assert planned(job.launcher, job.launcher_options, asked).argv


def test_options_that_do_not_say_anything_take_no_room_in_a_job() -> None:
    assert msgspec.to_builtins(MpiOptions()) == {}


def found(name: str, programs: Path) -> list[str]:
    """What a launcher's question finds where PATH has these programs alone."""
    programs.mkdir(exist_ok=True)
    for tool in ("head", "sed", "sleep", "timeout"):
        (programs / tool).symlink_to(str(shutil.which(tool)))
    environment = {"PATH": str(programs)}
    question = plugins.load("launch", name).FOUND
    argv = ["/bin/sh", "-c", question]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines()


def program(at: Path, *lines: str) -> None:
    at.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    at.chmod(0o755)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("mpirun (Open MPI) 4.1.4", "Open MPI 4.1.4"),
        ("mpirun.real (OpenRTE) 4.0.3", "Open MPI 4.0.3"),
        ("HYDRA build details:\n    Version:                                 4.0.2", "MPICH 4.0.2"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.5 Build 20211102", "MPICH 2021.5"),
        ("srun: no such option", "an MPI that is not known here"),
    ],
)
def test_an_mpi_is_told_by_what_its_starter_says(tmp_path: Path, said: str, what: str) -> None:
    program(tmp_path / "mpiexec", f"echo '{said}' >&2")
    assert found("mpi", tmp_path) == [f"{what}\tmpiexec"]


def test_packages_are_asked_for_by_name_and_not_imported(tmp_path: Path) -> None:
    ours = f"pytest {pytest.__version__}"
    question = package_found("pytest", "tool")
    (tmp_path / "tool").write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    (tmp_path / "tool").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    argv = ["/bin/sh", "-c", question]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment)
    assert f"{ours}\ttool" in done.stdout.splitlines()


def test_a_command_of_an_unknown_interpreter_is_found_without_its_version(tmp_path: Path) -> None:
    program(tmp_path / "torchrun", "exit 3")
    assert found("torchrun", tmp_path) == ["torch\ttorchrun"]
    assert found("ray", tmp_path / "empty") == []
