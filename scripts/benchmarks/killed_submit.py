"""`dispatcher submit` of 10,000 jobs, killed half-way and repeated until it is through: exactly
those."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.rig.figure import Figure, figure
from tests.rig.programs import BIN, QUEUE, Program, Rig

JOBS = 10_000
KILLS = 4


def run(seed: int, jobs: int = JOBS) -> Iterator[Figure]:
    """With an id of ours, with none, and with the dispatcher killed instead of the client."""
    chance = random.Random(seed)
    with Rig(heartbeat_s=60) as rig:
        typical = _whole(rig, _file(rig, "dry", jobs), ("--dry-run",))
        for name, more in (("with-id", ("--request-id", "ours")), ("without-id", ())):
            file = _file(rig, name, jobs)
            kills = 0
            while True:
                program = _submit(rig, file, more)
                if kills < KILLS:
                    time.sleep(chance.uniform(0.3, 1.2) * typical)
                    kills += program.alive
                    program.kill()
                else:
                    _ended(program)
                if _told(program, jobs):
                    break
            yield _counted(rig, name, jobs, seed, kills)
        file = _file(rig, "dispatcher-killed", jobs)
        program = _submit(rig, file, ())
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.5, 1.5) * typical)
            rig.dispatcher.kill()
            rig.serve()
        _ended(program)
        yield _counted(rig, "dispatcher-killed", jobs, seed, KILLS)


def _file(rig: Rig, name: str, jobs: int) -> Path:
    path = rig.directory / f"{name}.json"
    entries = [{"name": f"{name}-{nr}", "command": "true", "queue": QUEUE} for nr in range(jobs)]
    path.write_text(json.dumps(entries))
    return path


def _submit(rig: Rig, file: Path, more: Sequence[str]) -> Program:
    argv = [BIN / "dispatcher", "submit", file, "--url", rig.url, "--token-file", rig.admin_token]
    return rig.start([*argv, *more], file.stem, XDG_STATE_HOME=str(rig.directory / "submissions"))


def _whole(rig: Rig, file: Path, more: Sequence[str]) -> float:
    """A submission that nobody kills; seconds it takes."""
    began = time.monotonic()
    _ended(_submit(rig, file, more))
    return time.monotonic() - began


def _ended(program: Program) -> None:
    if program.process.wait(90):
        raise RuntimeError(f"submit failed: {program.log.read_text()[-500:]}")


def _told(program: Program, jobs: int) -> bool:
    """Whether the caller has the ids: then it has no reason to ask again."""
    return sum(line.isdigit() for line in program.log.read_text().splitlines()) >= jobs


def _counted(rig: Rig, name: str, jobs: int, seed: int, kills: int) -> Figure:
    """How many jobs of that name there are, all ready and each once."""
    query = f"""select count(*), count(distinct name) from job j join body using (job_id)
        where name like '{name}-%' and state = 'activated'"""  # noqa: S608 -- the name is ours
    ((total, names),) = rig.rows(query)
    return figure(f"chaos: submit {name}, jobs too few or too many", abs(total - jobs), at_most=0,
                  seed=seed, note=f"{kills} kills; {total} jobs of {names} names")  # fmt: skip
