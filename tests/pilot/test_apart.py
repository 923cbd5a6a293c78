"""A pilot does not begin where its jobs would read what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ailurus.protocol.errors import AilurusError
from pilot.site import ContainerChoice, Site, Storage, keep_apart

pytestmark = pytest.mark.field("A10")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("data", "work/spool", "work/ailurus-0123", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "work")
    return tmp_path


@pytest.mark.parametrize("shown", ["data", "data/deeper", "work/storage"])
def test_what_jobs_are_shown_may_lie_beside_it(places, shown):
    spool, token = places / "work" / "spool", places / "secret" / "token"
    site = Site(storage=Storage(roots=(str(places / shown),)), software=("/opt",))
    keep_apart(site, places / "work", (spool, token, None))


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "work",
        "work/spool",
        "work/spool/x",
        "work/ailurus-0123",
        "secret",
        "alias",
        "alias/spool",
    ],
)
@pytest.mark.parametrize("key", ["storage.roots", "software", "container.show"])
def test_nothing_of_the_pilots_is_shown_to_jobs(places, shown, key):
    spool, token = places / "work" / "spool", places / "secret" / "token"
    path = (str(places / shown),)
    site = {
        "storage.roots": Site(storage=Storage(roots=path)),
        "software": Site(software=path),
        "container.show": Site(container=ContainerChoice(show=path)),
    }[key]
    with pytest.raises(AilurusError, match="jobs could read") as refused:
        keep_apart(site, places / "work", (spool, token, None))
    assert refused.value.field == key


def test_what_every_sandbox_shows_holds_nothing_of_the_pilots():
    with pytest.raises(AilurusError, match="they are shown /usr"):
        keep_apart(Site(), Path("/usr/local/scratch"), ())


@pytest.mark.slow
def test_a_pilot_ends_before_it_takes_anything(places, tmp_path):
    import subprocess
    import sys

    site = tmp_path / "site.json"
    site.write_text(f'{{"storage": {{"roots": ["{places}"]}}}}')
    argv = [Path(sys.executable).with_name("pilot"), "--url", "http://127.0.0.1:9", "--queue", "q"]
    argv += ["--site", site, "-a", places / "work", "--patience", "0", "--dialect", "native"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 65, ran.stderr
    assert "jobs could read" in ran.stderr
