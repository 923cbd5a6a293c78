"""What README.md and the tutorial tell to type, typed: it ends with the output in hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.slow]
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.field("H3")
def test_use_it_ends_with_the_output_in_hand(tmp_path: Path) -> None:
    block = re.search(r"## Use it\n\n```\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    said = typed(block[1], tmp_path)
    assert said.rstrip().splitlines()[-1].startswith("hello from ")


def test_the_tutorial_can_be_typed_from_its_first_to_its_last_line(tmp_path: Path) -> None:
    page = (README.parent / "docs/tutorial.md").read_text()
    said = typed("\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)), tmp_path)
    assert (tmp_path / "count.txt").read_text() == "9 words\n"
    assert 'result\t{"words":9}' in said
    states = dict(re.findall(r"^job\t(\d) \S+\nstate\t(\w+)$", said, re.MULTILINE))
    assert states == {"1": "finished", "2": "failed"}
    assert len(re.findall(r"^\d+\t-\tfinished\t1\t", said, re.MULTILINE)) == 20
    assert re.search(r"^add\t4\t0\t0\t4\t0\t1$", said, re.MULTILINE)


def typed(block: str, directory: Path) -> str:
    """What is printed when these lines are typed in an empty directory."""
    made = r"(?m)^(scripts/setup|source \.venv/bin/activate)\b.*\n"
    words = re.sub(made, "", block).replace("8080", str(free_port()))
    script = f"set -e\ntrap 'kill %1; wait' EXIT\n{words}"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "TMPDIR": str(directory),
    }
    done = subprocess.run(
        ["bash", "-m", "-c", script],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
