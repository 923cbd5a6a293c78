"""PanDA's own Pilot 3 beside our dispatcher: what a site would give it, in a directory of its
own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.request
from functools import cache
from pathlib import Path

import pytest

from tests.rig.programs import Program, Rig

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "scripts" / "fixtures" / "pilot3"


def needed(need, *modules: str) -> None:
    """Skip where Pilot 3 is not, or cannot be run, or its Python has none of these; fail in CI."""
    need("curl")
    venv = ROOT / ".venv-panda"
    there = (venv / ".stamp").exists() and all(
        any(venv.glob(f"lib/python3*/site-packages/{module}")) for module in modules
    )
    if not there or os.geteuid() != 0:
        why = "Pilot 3 is not here, or this is not root: scripts/setup --panda, as root"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


@cache
def user() -> int:
    return int(subprocess.run([FIXTURE, "user"], stdout=subprocess.PIPE, check=True).stdout)


def fetched(rig: Rig, name: str, into: Path) -> Path:
    """A file that the dispatcher serves to PanDA's pilots."""
    with urllib.request.urlopen(f"{rig.url}{name}", timeout=10) as answer:  # noqa: S310 -- our own server
        into.write_bytes(answer.read())
    into.chmod(0o755)
    return into


def start(rig: Rig, queue: str, *more: str, **environment: str) -> Program:
    """Start a Pilot 3 for a queue, set up as docs/panda.md says; it ends when it finds no more
    jobs."""
    home = rig.directory / f"pilot3-{queue}"
    home.mkdir()
    queues = fetched(rig, f"/cache/schedconfig/{queue}.json", home / "queues.json")
    described = fetched(rig, f"/cache/schedconfig/{queue}.all.json", home / "queue.json")
    storages = fetched(rig, "/cache/schedconfig/cric_ddmendpoints.json", home / "storages.json")
    fetched(rig, "/trf/user/runailurus", home / "runailurus")
    token = home / "token"
    token.touch(0o600)
    token.write_text(rig.pilot_token.read_text().strip())  # a newline would end its header
    for path in (home, token):
        shutil.chown(path, user(), user())
    settings = {
        "HOME": str(home),
        "PANDA_AUTH_TOKEN": token.name,
        "PANDA_AUTH_ORIGIN": "ailurus.pilot",
        "PANDA_AUTH_DIR": f"{home}/",
        "LOCAL_AGIS_SCHEDCONF": str(queues),
        "HARVESTER_WORKDIR": str(home),
        **environment,
    }
    argv = [FIXTURE, "run", *(f"{name}={value}" for name, value in settings.items())]
    argv += ["--pilot-user", "generic", "-w", "generic", "-q", queue, "-j", "managed"]
    argv += ["--job-type", "managed", "-t", "-u", "-v", "1", "-a", home, "--url", rig.url]
    argv += ["--queuedata-url", described, "--storagedata-url", storages]
    argv += ["--use-rucio-traces", "False", *more]
    return rig.start(argv, f"pilot3-{queue}")


def config(into: Path, **changed: object) -> Path:
    """Pilot 3's own configuration with some values changed."""
    text = (ROOT / ".venv-panda" / "pilot3" / "pilot" / "util" / "default.cfg").read_text()
    for name, value in changed.items():
        text, found = re.subn(rf"(?m)^{name}:.*$", f"{name}: {value}", text)
        assert found, f"Pilot 3 has no setting {name}"
    path = into / "pilot3.cfg"
    path.write_text(text)
    return path
