"""What a site hands on to a submit command, and commands that go through another machine's
shell."""

from __future__ import annotations

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harvester_edge import lint
from harvester_edge.ports import BatchError, Rejected, Tag, Unclear
from plugins.batch.commands import Ran
from plugins.batch.htcondor import OWN, HTCondor, HTCondorOptions
from plugins.batch.pass_through import behind
from plugins.batch.pbs import PBS, QSUB, PBSOptions
from plugins.batch.slurm import SBATCH, Slurm, SlurmOptions
from tests.plugins.recordings import Player, order

TAG = Tag("aabcdtag")

# --- words that a plugin must say itself ----------------------------------------------------------

SBATCH_BAD = [
    ["--job-name=grid-pilot"], ["--job-name", "grid-pilot"], ["-J", "x"], ["-Jx"], ["--job-n=x"],
    ["--clusters=other"], ["-M", "other"], ["-Mother"], ["--array=0-9"], ["-a0-9"], ["--arr", "1"],
    ["--parsable"], ["--output=/dev/null"], ["-o", "x"], ["--error=x"], ["--wait"], ["-W"], ["-vW"],
    ["--test-only"], ["--wrap=true"], ["--chdir=/tmp"], ["-HJ", "x"], ["--uid=1"],
    ["--comment", "a", "--job-name=x"], ["-p", "long", "-J", "x"], ["script.sh"], ["--", "x"],
    ["--export=ALL,AILURUS_INDEX=3"], ["--exclusive", "user"], ["--nodes=2"], ["-t", "1:00"],
]  # fmt: skip
SBATCH_GOOD = [
    [], ["--comment=--job-name"], ["--comment", "-J"], ["-p", "-J"], ["-pJ"], ["--exclusive=user"],
    ["--nodelist=n1"], ["--time-min=1:00"], ["--no-requeue"], ["--constraint", "knl&quad"],
    ["--wait-all-nodes=1"], ["-C", "haswell"], ["--licenses=cvmfs"], ["--mem-per-cpu=2G"], ["-s"], ["-H"], ["--requeue"],
    ["--ntasks-per-node=1"], ["--export=NONE"], ["-A", "a", "-q", "b"], ["--dependency=singleton"],
]  # fmt: skip
QSUB_BAD = [
    ["-N", "grid"], ["-Ngrid"], ["-J", "0-3"], ["-o", "/x"], ["-e/x"], ["-W", "block=true"],
    ["-Wblock=true"], ["-W", "group_list=a,block=true"], ["-W", "Job_Name=x"], ["-I"], ["-z"], ["-Vz"],
    ["-l", "select=2"], ["-l", "filesystems=home,walltime=1:00"], ["job.sh"], ["--", "x"],
    ["-VN", "x"], ["-u", "other"], ["-vA=1,AILURUS_INDEX=3"],
]  # fmt: skip
QSUB_GOOD = [
    [], ["-l", "filesystems=home:eagle"], ["-W", "tolerate_node_failures=all"], ["-V"], ["-m", "n"],
    ["-W", "group_list=atlas"], ["-lsoftware=x"], ["-v", "N=1"], ["-m", "-N"],
]  # fmt: skip
CONDOR_BAD = [
    '+AilurusTag = "x"', 'My.AilurusTag="x"', "my.ailurustag = 1", "queue", "queue 3", "QUEUE 2",
    "executable=/bin/true", 'Environment = "A=1"', "env = A=1", "output = x", "initialdir = /",
    "requirements = True", "leave_in_queue = False", "on_exit_remove = False", "max_materialize = 1",
    "include : other.sub", "if true", "x = 1 \\", "x @=end", "hold = true", "universe = docker",
    " request_cpus = 3", "+LeaveJobInQueue = False", "My.Cmd = 1",
]  # fmt: skip
CONDOR_GOOD = [
    "", "# queue", "+WantIOProxy = True", "job_lease_duration = 300", "getenv = X509_USER_PROXY",
    "concurrency_limits = a", "My.Queue2 = 1", "rank = (Mips == 5)",
]  # fmt: skip


@pytest.mark.field("K3")
@pytest.mark.parametrize(
    ("options", "bad"),
    [*((SlurmOptions, one) for one in SBATCH_BAD), *((PBSOptions, one) for one in QSUB_BAD),
     *((HTCondorOptions, [one]) for one in CONDOR_BAD)],
)  # fmt: skip
def test_what_would_hide_workers_from_the_edge_is_refused(options, bad):
    with pytest.raises(ValueError, match=r"cannot stand here|for the script|swallow|is no `name"):
        options(submit=bad)


@pytest.mark.field("K3")
@pytest.mark.parametrize(
    ("options", "good"),
    [*((SlurmOptions, one) for one in SBATCH_GOOD), *((PBSOptions, one) for one in QSUB_GOOD),
     *((HTCondorOptions, [one]) for one in CONDOR_GOOD)],
)  # fmt: skip
def test_whatever_else_a_site_needs_is_passed_on(options, good):
    assert options(submit=good).submit == good


@pytest.mark.field("K3")
def test_all_that_the_plugins_say_themselves_is_theirs_to_say(tmp_path):
    """Every option that makes an order what it is, from the very commands."""
    from plugins.batch.htcondor import submit_file
    from plugins.batch.pbs import qsub
    from plugins.batch.slurm import sbatch

    asked = order(tmp_path, 4, nodes=2, gpus=1)
    free = {"--no-requeue", "--export", "--propagate", "--signal", "-r", "--ntasks-per-node", "--no-kill",
            "--mem", "--gpus-per-node", "-q", "-A", "-P"}  # fmt: skip
    said = {word.partition("=")[0] for word in sbatch(SlurmOptions(), asked, TAG)[1:-1]}
    assert said - free <= SBATCH.own.keys()
    said = {word for word in qsub(PBSOptions(), asked, TAG)[1:-1] if word[:1] == "-"} - {"-l"}
    assert said - free <= QSUB.own.keys()
    lines = submit_file(HTCondorOptions(), asked, TAG).splitlines()
    names = {line.partition("=")[0].strip().lower().removeprefix("my.") for line in lines[:-1]}
    assert (
        names - {"batch_name", "kill_sig", "want_graceful_removal", "job_max_vacate_time"}
        <= OWN.keys()
    )


@pytest.mark.field("K3", "K6")
@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("slurm, options: {submit: ['--job-name=x']}", "`--job-name` cannot stand here: the edge finds"),
        ("pbs, options: {submit: [-N, x]}", "`-N` cannot stand here"),
        ("htcondor, options: {submit: ['queue 3']}", "is no `name = value`"),
        ("slurm, options: {prefix: ['ssh login']}", "'ssh login' is no command: each word by itself"),
        ("htcondor, options: {prefix: [ssh]}", "ssh is to be told where"),
        ("slurm, options: {prefix: [ssh, -tt, login]}", "with a terminal"),
    ],
)  # fmt: skip
def test_lint_refuses_it_with_the_line(tmp_path, backend, said):
    text = (Path(__file__).parents[2] / "site_configs" / "vega.yaml").read_text()
    text = text.replace("backend:\n  options: {partition: cpu}", f"backend: {{kind: {backend}}}")
    text = text.replace("extends: slurm-wholenode\n", "")
    (tmp_path / "site.yaml").write_text(text)
    found = [one for one in lint.faults(tmp_path / "site.yaml") if one.rule == "E020"]
    (fault,) = (one for one in found if said in one.message)
    assert fault.line == text[: text.index("backend:")].count("\n") + 1


# --- a refusal, whatever its words ----------------------------------------------------------------

PLUGINS = [(Slurm, SlurmOptions, "sbatch: error: "), (PBS, PBSOptions, "qsub: "),
           (HTCondor, HTCondorOptions, "ERROR: ")]  # fmt: skip


@pytest.mark.field("K5")
@pytest.mark.parametrize(("plugin", "options", "begins"), PLUGINS)
@given(words=st.text(st.characters(codec="ascii", categories=["L", "P", "Zs"]), min_size=1))
def test_a_refusal_in_words_of_the_site_is_one(plugin, options, begins, words, tmp_path_factory):
    place = tmp_path_factory.mktemp("order")
    ran = Ran(1, "", f"{begins}{words}\n")
    # Hypothesis finds the words of a lost connection among the plugin's own constants.
    assume(not sys.modules[plugin.__module__]._LOST.search(ran.err))
    batch = plugin(options(), place, "aabcd", run=Player([ran]))
    assert batch.submit(order(place), TAG) == Rejected(ran.message)


@pytest.mark.field("K5")
def test_job_submit_lua_refuses_with_its_own_words(tmp_path):
    said = (
        "sbatch: error: Use --account=atlas, please; contact support if the connection timed out.\n"
        "sbatch: error: Batch job submission failed: Unspecified error\n"
    )
    batch = Slurm(SlurmOptions(), tmp_path, "aabcd", run=Player([Ran(1, "", said)]))
    outcome = batch.submit(order(tmp_path), TAG)
    assert isinstance(outcome, Rejected)
    assert "Use --account=atlas" in outcome.reason


@pytest.mark.field("K5")
@pytest.mark.parametrize(("plugin", "options", "begins"), PLUGINS)
@pytest.mark.parametrize("code", [124, 129, 130, 137, 143, -9, 0])
def test_a_command_that_was_ended_tells_nothing(plugin, options, begins, code, tmp_path):
    batch = plugin(options(), tmp_path, "aabcd", run=Player([Ran(code, "", f"{begins}no\n")]))
    assert isinstance(batch.submit(order(tmp_path), TAG), Unclear)


@pytest.mark.field("K5")
@pytest.mark.parametrize(("plugin", "options", "begins"), PLUGINS)
def test_who_says_nothing_at_all_has_not_refused(plugin, options, begins, tmp_path):
    batch = plugin(options(), tmp_path, "aabcd", run=Player([Ran(1)]))
    assert isinstance(batch.submit(order(tmp_path), TAG), Unclear)


@pytest.mark.field("K5")
@pytest.mark.parametrize(("plugin", "options", "begins"), PLUGINS)
def test_what_ssh_says_is_no_refusal(plugin, options, begins, tmp_path):
    """It may have lost the connection after the command was run."""
    broken = Ran(255, "", "client_loop: send disconnect: Broken pipe\n")
    far = options(prefix=["ssh", "login"])
    batch = plugin(far, tmp_path, "aabcd", run=Player([broken]))
    assert isinstance(batch.submit(order(tmp_path), TAG), Unclear)
    told = Ran(255, "", f"Warning: banner\n{begins}invalid\n")
    batch = plugin(far, tmp_path, "aabcd", run=Player([told]))
    assert isinstance(batch.submit(order(tmp_path), TAG), Rejected)


@pytest.mark.field("K5")
@pytest.mark.parametrize(("plugin", "options", "begins"), PLUGINS)
def test_a_number_on_stdout_may_be_a_job(plugin, options, begins, tmp_path):
    batch = plugin(
        options(), tmp_path, "aabcd", run=Player([Ran(1, "job 17 ok\n", f"{begins}x\n")])
    )
    assert isinstance(batch.submit(order(tmp_path), TAG), Unclear)
    batch = plugin(options(), tmp_path, "aabcd", run=Player([Ran(1, "--> login1 OK\n", "no\n")]))
    assert isinstance(batch.submit(order(tmp_path), TAG), Rejected)


# --- a prefix -------------------------------------------------------------------------------------

words = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=9), min_size=1
)


@pytest.mark.field("K6")
@given(words)
def test_a_command_arrives_word_by_word_through_any_number_of_shells(argv):
    for prefix, shells in (
        (["env"], 0), (["ssh", "-o", "BatchMode=yes", "login"], 1), (["/usr/bin/ssh", "gate", "ssh", "login"], 2),
        (["su", "edge", "-c"], 1), (["ssh", "login", "sudo", "-u", "edge", "sh", "-c"], 2),
    ):  # fmt: skip
        sent = behind(prefix, argv)[len(prefix) :]
        for _ in range(shells):
            sent = shlex.split(" ".join(sent))
        assert sent == argv


@pytest.mark.field("K6")
@pytest.mark.parametrize(
    ("plugin", "options"), [(Slurm, SlurmOptions), (PBS, PBSOptions), (HTCondor, HTCondorOptions)]
)
def test_every_command_of_a_plugin_survives_a_far_shell(plugin, options, tmp_path):
    """A stand-in for ssh does what ssh does: it joins its words and has a shell read them."""
    near, far = tmp_path / "near", tmp_path / "far"
    for one in (near, far):
        one.mkdir()
    ssh = near / "ssh"
    ssh.write_text(f'#!/bin/sh\nshift\nPATH={far}:$PATH exec sh -c "$*"\n')
    names = ["sbatch", "squeue", "sacct", "scancel", "qsub", "qstat", "qselect", "qdel", "pbsnodes",
             "condor_submit", "condor_q", "condor_history", "condor_rm", "condor_status"]  # fmt: skip
    for name in names:
        file = far / name
        file.write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@" >> {tmp_path}/arrived\nexit 1\n')
    for one in (ssh, *far.iterdir()):
        one.chmod(0o755)
    sent: list[str] = []

    def run(argv):
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def note(argv):
        sent.extend(argv)
        return Ran(1)

    place = tmp_path / "it's a $(place) with %T; and (1)"
    place.mkdir()
    for prefix, runner in (([str(ssh), "login"], run), ([], note)):
        batch = plugin(options(prefix=prefix), place, "aabcd", run=runner)
        batch.submit(order(place), TAG)
        for ask in (batch.listing, lambda b=batch: b.find(TAG), lambda b=batch: b.cancel(["17_0"])):
            with suppress(BatchError):
                ask()
    assert (tmp_path / "arrived").read_text().split("\0")[:-1] == sent
