"""What ends the workers of an agent of torchrun when a node is lost; the agent here is made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from plugins.launch import texts
from tests.rig.waiting import until

# As torchrun's, it starts a worker again that failed, and ends with one that did not.
AGENT = """
import subprocess, sys
while subprocess.call(sys.argv[-2:]):
    pass
"""
WORKER = """
if test -e HERE/last; then end=true; else end="sleep 600"; fi
echo $$ >> HERE/begun
exec $end
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    package = tmp_path / "site/torch/distributed"
    package.mkdir(parents=True)
    (package / "run.py").write_text(AGENT)
    (tmp_path / "command.sh").write_text(WORKER.replace("HERE", str(tmp_path)))
    (tmp_path / "node.py").write_text(texts.text("torchrun_node.py"))
    (tmp_path / "nodes").write_text("n1 1\nn2 2\nn3 3\n")
    return tmp_path


@pytest.fixture
def agent(here: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, str(here / "node.py"), str(here), "1", sys.executable]
    environment = {"PYTHONPATH": str(here / "site")}
    with subprocess.Popen(argv, env=environment, start_new_session=True) as started:
        yield started
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


def begun(here: Path) -> list[str]:
    path = here / "begun"
    return path.read_text().split() if path.exists() else []


def tell(here: Path, nodes: str) -> None:
    """As the pilot does, in one step."""
    draft = here / "draft"
    draft.write_text(nodes)
    draft.rename(here / "nodes")


def test_workers_begin_again_each_time_that_a_node_is_lost(
    here: Path, agent: subprocess.Popen[bytes]
) -> None:
    until(lambda: len(begun(here)) == 1)
    tell(here, "n1 1\nn3 3\nn4 4\n")
    until(lambda: len(begun(here)) == 2)
    (here / "last").touch()
    tell(here, "n1 1\nn4 4\n")
    assert agent.wait(20) == 0
    assert len(begun(here)) == 3
