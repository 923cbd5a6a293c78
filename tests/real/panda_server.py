"""A real PanDA server for tests: jobs are put into its tables, and what became of them is read
there."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest

from tests.rig.programs import BIN, Program, run

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "scripts" / "fixtures" / "panda-server"
QUEUE = "TEST"
ORIGIN = "testvo:production"
SCOPE = "user.test"


def needed(need, release: str = "v1") -> None:
    """Skip where the server or its database is not; fail in CI."""
    need("curl")
    need("initdb", package="postgresql", option="--postgres", where="/usr/lib/postgresql/*/bin")
    venv = ROOT / f".venv-panda-server{'' if release == 'v1' else '-legacy'}"
    if not (venv / ".stamp").exists():
        why = "panda-server is not here: scripts/setup --panda-server"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


class PandaServer:
    """The server of a release in a directory of its own, with what its pilots need beside it."""

    def __init__(self, release: str = "v1") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ailurus-panda-server-"))
        self.directory.chmod(0o755)  # as root its database is another user's
        self.server = self.directory / "server"
        self.release = release
        self.programs: list[Program] = []
        self.keep = False
        self.url = self.ask("start", release)
        self.token = self.directory / "token"
        self.token.touch(0o600)
        self.token.write_text(self.ask("token"))
        self.storage = self.directory / "storage"
        (self.storage / "out").mkdir(parents=True)
        self.site = self.directory / "site.json"
        self.site.write_text(
            json.dumps(
                {
                    "storage": {
                        "roots": [str(self.storage)],
                        "default_output": f"file://{self.storage}/out",
                    },
                    "container": {"default": "bare", "bare": True},
                }
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for program in self.programs:
            program.stop()
        self.ask("stop")
        if kind is None and not self.keep:
            run("rm", "-rf", "--", self.directory)
        else:
            print(f"kept for a look: {self.directory}")

    def ask(self, verb: str, *more: str, given: str = "") -> str:
        """start, token, sql or stop."""
        done = subprocess.run(
            [FIXTURE, verb, self.server, *more],
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{verb} of the PanDA server: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What its tables say; names are in small letters."""
        text = self.ask("sql", given=f"select to_json(t) from ({query}) t;")  # noqa: S608 -- ours
        return [json.loads(line) for line in text.splitlines()]

    def insert(self, table: str, **values: object) -> None:
        names = ", ".join(values)
        held = ", ".join(literal(value) for value in values.values())
        self.ask("sql", given=f"insert into atlas_panda.{table} ({names}) values ({held});")  # noqa: S608 -- ours

    def update(self, job_id: int, **values: object) -> None:
        """Change a job's row, as an operator's command or another part of the server would."""
        news = ", ".join(f"{name} = {literal(value)}" for name, value in values.items())
        given = f"update atlas_panda.jobsActive4 set {news} where PandaID = {job_id};"  # noqa: S608 -- ours
        self.ask("sql", given=given)

    def said(self, *names: str) -> str:
        """What its logs of these names have."""
        logs = (self.server / "log" / f"panda-{name}.log" for name in names)
        return "".join(log.read_text() for log in logs if log.exists())

    def job(
        self,
        job_id: int,
        command: str,
        *,
        files: tuple[dict[str, object], ...] = (),
        **more: object,
    ) -> int:
        """A job that waits, as JEDI and the brokerage leave it: a script that the pilot fetches,
        with `command` as its argument."""
        fields: dict[str, object] = {
            "PandaID": job_id,
            "jobDefinitionID": 1,
            "jobName": f"job.{job_id}",
            "jobStatus": "activated",
            "computingSite": QUEUE,
            "cloud": "WORLD",
            "VO": "testvo",
            "prodSourceLabel": "managed",
            "processingType": "test",
            "prodUserID": "/CN=somebody",
            "prodUserName": "somebody",
            "transformation": "/bin/sh",
            "homepackage": "NULL",
            "assignedPriority": 1000,
            "currentPriority": 1000,
            "attemptNr": 1,
            "maxAttempt": 3,
            "coreCount": 1,
            "minRamCount": 100,
            "maxDiskCount": 10,
            "maxCpuCount": 0,
            "maxWalltime": 0,
            "taskID": 7,
            "resource_type": "SCORE",
            **more,
        }
        self.insert("jobParamsTable", PandaID=job_id, jobParameters=f"-c '{command}'")
        for nr, file in enumerate(files):
            self.insert(
                "filesTable4",
                row_ID=job_id * 100 + nr,
                PandaID=job_id,
                scope=SCOPE,
                fsize=0,
                attemptNr=0,
                **{"dataset": f"{SCOPE}.data/", **file},
            )
        self.insert("jobsActive4", **fields)
        return job_id

    def seen(self, job_id: int) -> dict[str, Any]:
        """The job's row, wherever it is now."""
        (row,) = self.rows(
            f"select * from atlas_panda.jobsActive4 where PandaID = {job_id} union all"  # noqa: S608 -- a number
            f" select * from atlas_panda.jobsArchived4 where PandaID = {job_id}"
        )
        return row

    def files(self, job_id: int) -> dict[str, dict[str, Any]]:
        rows = self.rows(f"select * from atlas_panda.filesTable4 where PandaID = {job_id}")  # noqa: S608
        return {row["lfn"]: row for row in rows}

    def pilot(self, *more: str, name: str = "pilot", **environment: str) -> Program:
        """Start our pilot as a site would."""
        argv = [BIN / "pilot", "--url", self.url, "--queue", QUEUE, "--site", self.site]
        argv += ["--token-file", self.token, "-a", self.directory / "work", *more]
        log = self.directory / f"{name}.log"
        program = Program(argv, log, PANDA_AUTH_ORIGIN=ORIGIN, **environment)
        self.programs.append(program)
        return program


def literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
