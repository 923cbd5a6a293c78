"""The example of docs/plugins.md: a package outside the tree, found by its entry points."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
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
from pilot.ports import ContainerSetup, JobError, Sandbox
from plugins.batch.commands import Ran
from tests.plugins.recordings import HUNG, MISSING, Player, order

PAGE = Path(__file__).parents[2] / "docs/plugins.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The page's package in a directory of Python's path."""
    site = tmp_path / "site-packages"
    info = site / "my_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "my_plugins.py").write_text("\n\n".join(blocks("python")))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugins\nVersion: 1.0\n")
    (toml,) = blocks("toml")
    lines = [
        re.sub(r'^\[project\.entry-points\."(.*)"\]$', r"[\1]", one) for one in toml.split("\n")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines).replace('"', ""))
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("my_plugins", None)


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


def test_its_transfer_and_its_container_do_what_the_page_says(installed, tmp_path):
    transfer = plugins.load("data", "empty")(roots=(), http_allow=(), http_proxy="", ca="")
    with (tmp_path / "file").open("wb") as file:
        copied = transfer.get(Url.parse("empty://x/y"), file.fileno(), lambda: None, md5=False)
    assert (copied.size, Path(tmp_path / "file").stat().st_size) == (0, 0)
    with pytest.raises(JobError, match="takes nothing"):
        transfer.put(0, Url.parse("empty://x/y"), lambda: None)
    container = plugins.load("container", "nice")(ContainerSetup(directory="/d", user="u"))
    box = Sandbox(directory="/job", tmp="/tmp", environment={"A": "1"}, memory_mb=1)
    made = container.wrap(["true"], box)
    assert (made.argv, made.directory) == (["/usr/bin/nice", "true"], "/job")
