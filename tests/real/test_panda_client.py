"""PanDA's own client, from PyPI: prun submits, our pilot runs, pbook shows and steers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import JobsQuery
from tests.real.pilot3 import ROOT
from tests.rig.programs import Rig
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]
VENV = ROOT / ".venv-panda"
SCOPES = ("compute.read", "compute.create", "compute.modify", "compute.cancel")


class User:
    """A user with panda-client in a directory."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self._directory = directory
        (directory / "work").mkdir()
        url = f"{rig.url}/server/panda"
        asked = m.NewToken(subject="ada", scopes=SCOPES)
        token = rig.client.call("token", asked, answer=m.Token).token
        self._env = {
            **os.environ,
            **dict.fromkeys(("PANDA_URL", "PANDA_URL_SSL", "PANDACACHE_URL"), url),
            "PANDA_AUTH": "oidc",
            "PANDA_AUTH_VO": "ailurus.user",
            "PANDA_AUTH_ID_TOKEN": token,
            "PANDA_BEHIND_REAL_LB": "1",
            "PANDA_VERIFY_HOST": "off",
            "PATHENA_GRID_SETUP_SH": "/dev/null",
            "PANDA_SYS": str(VENV),
            "PANDA_PYTHONPATH": str(next(VENV.glob("lib/python*/site-packages"))),
            "PANDA_PYTHON_EXEC": str(VENV / "bin" / "python"),
            "HOME": str(directory),
            "NO_PROXY": "*",
        }

    def say(self, program: str, *words: str) -> str:
        """What a command says."""
        done = subprocess.run(
            [VENV / "bin" / program, *words],
            cwd=self._directory / "work",
            env=self._env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr


@pytest.mark.skipif(not (VENV / "bin" / "prun").exists(), reason="scripts/setup --panda")
def test_prun_and_pbook_work_as_with_a_panda_server(tmp_path):
    with Rig(heartbeat_s=1, cores=4) as rig:
        ada = User(rig, tmp_path)
        (tmp_path / "work" / "a.sh").write_text("echo hello $1 > out.txt\n")
        rig.pilot()

        def prun(command: str, name: str, *words: str) -> str:
            end = ("--noBuild", "--vo", "wlcg", "--outDS", f"user.ada.{name}", *words)
            return ada.say("prun", "--exec", command, *end)

        said = prun("sh a.sh %RNDM:1", "good", "--outputs", "out.txt", "--nJobs", "3")
        assert "new jediTaskID=10000001" in said
        assert "new jediTaskID=10000002" in prun(
            "false", "bad", "--nJobs", "1", "--maxAttempt", "1"
        )
        assert "dsForIN: not carried" in prun("cat %IN", "data", "--inDS", "data26:x")
        until(lambda: "done" in ada.say("pbook", "-c", "show(10000001)"), 60, "the first is done")
        until(lambda: "failed" in ada.say("pbook", "-c", "show(10000002)"), 60, "the other fails")
        before = len(rig.client.jobs(JobsQuery()).jobs)
        assert "retry is registered" in ada.say("pbook", "-c", "retry(10000002)")
        until(lambda: len(rig.client.jobs(JobsQuery()).jobs) == before + 1, 30, "it is tried again")
        found = [
            (file.name, Path(file.url.removeprefix("file://")).read_text(encoding="utf-8"))
            for job in rig.client.jobs(JobsQuery(state="finished")).jobs
            for file in rig.client.show(job.job_id).files
        ]
        assert sorted(found) == [
            (f"user.ada.10000001._{nr:06}.out.txt", f"hello {nr}\n") for nr in (1, 2, 3)
        ]
