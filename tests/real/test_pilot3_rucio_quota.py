"""The real Pilot 3 and our pilot at a Rucio that grants their outputs no quota."""

from __future__ import annotations

import tempfile
from pathlib import Path
from secrets import token_hex

import pytest

from ailurus.protocol.job import JobSpec, OutputFile
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
SCOPES = ("compute.read", "compute.create")


def beyond_quota(queue: str, mark: str) -> JobSpec:
    """One whose output is bob's, who has no quota at the storage."""
    file = OutputFile(name="hits", scope="user.bob", dataset=f"user.bob:{queue}.{mark}")
    return JobSpec(
        name="quota", queue=queue, command="echo > hits", outputs=(file,), max_attempts=1
    )


def test_a_quota_refuses_the_output_of_either_pilot_alike(need, rucio):
    pilot3.needed(need, "rucio")
    mark = token_hex(4)
    # Others than administrators may add replicas at storage of such a name alone.
    rse, directory = own_storage(rucio, f"P3{mark.upper()}_SCRATCHDISK", mark)
    with tempfile.TemporaryDirectory(prefix="ailurus-panda-") as name:
        own = Path(name)
        own.chmod(0o755)
        # Pilot 3 stores nothing in a storage where nothing is.
        at.upload(rucio, rse, {f"user.bob:first.{mark}": b"first"}, own / "in")
        opened(directory)
        with a_rig(rucio, own, rse, "file", "bob") as rig:
            client = Client(rig.url, TokenFile(rig.token("bob", *SCOPES)))
            ids = client.submit([beyond_quota(queue, mark) for queue in (THEIRS, OURS)]).job_ids
            pilot = a_pilot_3(rig, rucio)
            rig.pilot("--max-jobs", "1", "--queue", OURS, name="our-pilot")
            number = "select count(*) from registration where state = 'refused'"
            until(lambda: rig.rows(number) == [(2,)], PATIENCE_S, "both are refused", every_s=0.5)
            pilot.kill()
            jobs = [client.show(job_id) for job_id in ids]
    assert {job.row.state for job in jobs} == {JobState.FINISHED}
    assert jobs[0].attempts[-1].runtime == "panda"
    theirs, ours = (file for job in jobs for file in job.files if file.name == "hits")
    assert "InsufficientAccountLimit" in theirs.reason
    assert "rucio account limit add" in theirs.remedy
    assert (theirs.reason, theirs.remedy) == (ours.reason, ours.remedy)
