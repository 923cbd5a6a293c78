"""The example of docs/plugins.md: a page that shows it as it is, and plugins that keep the ports'
promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

import plugins
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.url import Url
from ailurus.protocol.worker import Ending, Phase
from harvester_edge import lint
from harvester_edge.batch import batch_class
from harvester_edge.ports import Accepted, Batch, BatchError, Rejected, Unclear
from pilot.ports import ContainerSetup, Copied, JobError, Sandbox
from plugins.batch.commands import Ran
from tests.plugins.conftest import EXAMPLE
from tests.plugins.recordings import HUNG, MISSING, Player, order

PAGE = Path(__file__).parents[2] / "docs/plugins.md"
SHOWN = ("lsf", "text", "lowest")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_example_as_it_is():
    shown = [(EXAMPLE / f"example_plugins/{name}.py").read_text() for name in SHOWN]
    assert blocks("python") == shown
    (toml,) = blocks("toml")
    assert toml.rstrip() in (EXAMPLE / "pyproject.toml").read_text()


def lsf(tmp_path: Path, *answers: Ran | BatchError) -> Batch:
    plugin = batch_class("lsf")
    options = msgspec.convert({"queue": "long"}, plugin.Options)
    player = Player(list(answers))
    return plugin(options, tmp_path, "aabcd", timeout_s=5.0, run=player)  # type: ignore[call-arg]


def test_its_names_are_known_beside_ours(installed):
    assert {"lsf", "slurm"} <= set(plugins.names("batch"))
    with pytest.raises(AilurusError, match="no batch plugin is called 'lfs'") as error:
        plugins.load("batch", "lfs")
    assert error.value.remedy == "did you mean `lsf`?"


def test_a_site_file_may_name_it_and_its_options_are_checked(installed, tmp_path):
    file = tmp_path / "site.yaml"
    tree = yaml.safe_load((PAGE.parents[1] / "site_configs/laptop.yaml").read_text())
    for option, rules in (("queue", []), ("quee", ["E020"])):
        tree["backend"] = {"kind": "lsf", "options": {option: "long"}}
        file.write_bytes(yaml.safe_dump(tree).encode())
        assert [one.rule for one in lint.faults(file) if one.rule == "E020"] == rules


TAKEN = Ran(0, "Job <17> is submitted to queue <long>.\n")
LISTED = Ran(0, "17|1|RUN|aabcdtag[1]\n17|2|EXIT|aabcdtag[2]\n17|3|ODD|aabcdtag[3]\n9|-|RUN|x\n")


def test_its_batch_system_keeps_the_ports_promises(installed, tmp_path):
    batch = lsf(tmp_path, TAKEN, LISTED, Ran(255, "", "No matching job found\n"))
    assert batch.submit(order(tmp_path, 2), "aabcdtag") == Accepted({0: "17[1]", 1: "17[2]"})
    assert [(one.tag, one.index, one.phase, one.ending) for one in batch.listing()] == [
        ("aabcdtag", 0, Phase.STARTING, None),
        ("aabcdtag", 1, Phase.ENDED, Ending.FAILED),
        ("aabcdtag", 2, None, None),
    ]
    assert batch.find("aabcdtag", (), 60.0) == ()
    batch.cancel(["17[1]"])
    assert batch.trial(order(tmp_path), "aabcdtag") is None
    assert not batch.history
    assert expanded_by_a_shell(batch.index) == "0"
    assert expanded_by_a_shell(batch.batch_id) == "17[1]"


def expanded_by_a_shell(expression: str) -> str:
    env = {"LSB_JOBID": "17", "LSB_JOBINDEX": "1"}
    return subprocess.check_output(["/bin/sh", "-c", f"printf %s {expression}"], env=env, text=True)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (HUNG, Unclear), (MISSING, Rejected), (Ran(0, "Job <17"), Unclear), (Ran(-9), Unclear),
        (Ran(255, "", "No such queue. Job not submitted.\n"), Rejected),
        (Ran(255, "", "LSF is down. Please wait ...\n"), Unclear),
    ],
)  # fmt: skip
def test_its_submission_is_never_guessed(installed, tmp_path, answer, outcome):
    assert isinstance(lsf(tmp_path, answer).submit(order(tmp_path), "aabcdtag"), outcome)


@pytest.mark.parametrize(
    "answer",
    [
        HUNG, Ran(1, "", "boom\n"), Ran(0, "17|1|RUN|aabcdt"),
        Ran(0, LISTED.out + "17|4|RUN\n"), Ran(0, "Welcome to the cluster\n" + LISTED.out),
        Ran(0, LISTED.out + "17|-|RUN|aabcdtag[4]\n"),
    ],
)  # fmt: skip
def test_its_listing_is_an_error_where_it_is_none(installed, tmp_path, answer):
    with pytest.raises(BatchError):
        lsf(tmp_path, answer).listing()


def test_its_transfer_reads_and_writes_nothing(installed, tmp_path):
    transfer = plugins.load("data", "text")(roots=(), http_allow=(), http_proxy="", ca="")
    url = Url.parse("text://x/hello")
    with (tmp_path / "file").open("wb") as file:
        copied = transfer.get(url, file.fileno(), lambda: None, md5=False)
    assert copied == Copied(size=5, adler32="062c0215")
    assert (tmp_path / "file").read_text() == "hello"
    with pytest.raises(JobError, match="can only be read"):
        transfer.put(0, url, lambda: None)


def test_its_container_runs_payloads_only_where_the_site_lets_them_run_bare(installed):
    kind = plugins.load("container", "lowest")
    with pytest.raises(AilurusError, match="outside a container"):
        kind(ContainerSetup(directory="/d", user="u", bare=False))
    container = kind(ContainerSetup(directory="/d", user="u", bare=True))
    box = Sandbox(directory="/job", tmp="/tmp", environment={"A": "1"}, memory_mb=1)
    made = container.wrap(["true"], box)
    assert (made.argv, made.directory) == (["/usr/bin/nice", "-n", "19", "true"], "/job")
