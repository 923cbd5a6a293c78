"""What README.md tells to type, typed: it ends with the output in hand."""

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
    port = str(free_port())
    words = block[1].replace("source .venv/bin/activate\n", "").replace("8080", port)
    script = f"set -e\ntrap 'kill %1; wait' EXIT\n{words}"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-m", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("hello from ")
