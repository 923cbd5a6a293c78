"""The documentation is a site without a link that leads nowhere, with all commands in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dispatcher.cli import VERBS

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]


def test_the_site_has_every_page_and_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/docs", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {page.stem for page in site.glob("*.html")}
    reference = (site / "reference/dispatcher.html").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"dispatcher {verb}" not in reference] == []
    manuals = {page.name: page.read_text("utf-8") for page in tmp_path.glob("man/man1/*")}
    assert sorted(manuals) == ["dispatcher.1", "harvester-edge.1", "pilot.1"]
    assert [verb for verb in VERBS if f"dispatcher {verb}" not in manuals["dispatcher.1"]] == []
