"""The real Pilot 3 and our pilot at a Rucio that lost an input and grants outputs no quota."""

from __future__ import annotations

import tempfile
from pathlib import Path
from secrets import token_hex

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from tests.real import pilot3
from tests.real.test_pilot3_rucio import (
    OURS,
    PATIENCE_S,
    THEIRS,
    a_pilot_3,
    a_rig,
    opened,
    own_storage,
)
from tests.rig import rucio as at
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(300)]
LOST = "lost"
"""Of a Pilot 3, as the queue `theirs`."""
SCOPES = ("compute.read", "compute.create")


def beyond_quota(queue: str, mark: str) -> JobSpec:
    """One whose output is bob's, who has no quota at the storage."""
    file = OutputFile(name="hits", scope="user.bob", dataset=f"user.bob:{queue}.{mark}")
    return JobSpec(
        name="quota", queue=queue, command="echo > hits", outputs=(file,), max_attempts=1
    )


def without_a_replica(queue: str, mark: str) -> JobSpec:
    """One whose input is known to Rucio and gone from its only storage."""
    file = InputFile(name="gone", url=f"rucio://user.bob:gone.{mark}")
    return JobSpec(name="lost", queue=queue, command="cat gone", inputs=(file,), max_attempts=1)


def test_a_lost_replica_and_a_refused_quota_are_told_by_either_pilot_alike(need, rucio):
    pilot3.needed(need, "rucio")
    mark = token_hex(4)
    # Others than administrators may add replicas at storage of such a name alone.
    rse, directory = own_storage(rucio, f"P3{mark.upper()}_SCRATCHDISK", mark)
    with tempfile.TemporaryDirectory(prefix="ailurus-panda-") as name:
        own = Path(name)
        own.chmod(0o755)
        # Pilot 3 stores nothing in a storage where nothing is.
        named = {f"user.bob:{one}.{mark}": b"here" for one in ("first", "gone")}
        at.upload(rucio, rse, named, own / "in")
        opened(directory)
        (file,) = directory.rglob(f"gone.{mark}")
        file.unlink()
        with a_rig(rucio, own, rse, "file", "bob", (THEIRS, LOST, OURS)) as rig:
            client = Client(rig.url, TokenFile(rig.token("bob", *SCOPES)))
            asked = [beyond_quota(queue, mark) for queue in (THEIRS, OURS)]
            asked += [without_a_replica(queue, mark) for queue in (LOST, OURS)]
            ids = client.submit(asked).job_ids
            # Each for one job: after one it stays for minutes.
            pilots = [a_pilot_3(rig, rucio, queue) for queue in (THEIRS, LOST)]
            rig.pilot("--max-jobs", "2", "--queue", OURS, name="our-pilot")
            number = "select count(*) from registration where state = 'refused'"
            until(lambda: rig.rows(number) == [(2,)], PATIENCE_S, "both are refused", every_s=0.5)
            client.wait(ids[3:], PATIENCE_S)
            said = f"lfn=gone.{mark}, status_code={Code.MISSING_INPUT:d}, status=failed"
            log = pilots[1].log
            until(lambda: said in log.read_text(), PATIENCE_S, "Pilot 3 has tried", every_s=0.5)
            for pilot in pilots:
                pilot.kill()
            jobs = [client.show(job_id) for job_id in ids]
    assert [job.attempts[-1].runtime == "panda" for job in jobs[:2]] == [True, False]
    assert (jobs[3].row.state, jobs[3].row.code) == (JobState.FAILED, Code.MISSING_INPUT)
    assert [job.row.state for job in jobs[:2]] == [JobState.FINISHED] * 2
    theirs, ours = (file for job in jobs[:2] for file in job.files if file.name == "hits")
    assert "InsufficientAccountLimit" in theirs.reason
    assert "rucio account limit add" in theirs.remedy
    assert (theirs.reason, theirs.remedy) == (ours.reason, ours.remedy)
