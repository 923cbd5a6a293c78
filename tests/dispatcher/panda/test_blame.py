"""Whose fault a failure on a PanDA pilot is: of its several codes the one that says most
decides."""

from __future__ import annotations

import json

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec, OutputFile
from ailurus.protocol.panda_update import read_update
from dispatcher.service.panda import reports

FAILED = {"job_id": 1, "job_status": "failed"}


def report(**said):
    update = read_update({**FAILED, **said}, "v1")
    given = reports.HandedOut(1, 1, JobSpec(name="j", command="x"))
    return reports.report(update, given, now=0.0)


@pytest.mark.field("P3")
@pytest.mark.parametrize("code", [1099, 1137, 1145, 1151, 1152, 1171, 1172])
@pytest.mark.parametrize("generic", [1305, -1305, 1008, 0, None])
def test_a_transfer_that_failed_is_tried_again_though_it_is_said_in_the_second_code(code, generic):
    found = report(pilot_error_code=generic, exe_error_code=code, exe_error_diag="no door")
    assert (found.code, found.transient) == (code, True)


@pytest.mark.field("P3")
def test_a_missing_output_in_the_second_code_is_final():
    found = report(pilot_error_code=1305, exe_error_code=1165)
    assert (found.code, found.transient) == (Code.MISSING_OUTPUT, False)


@pytest.mark.field("P3")
def test_a_first_code_that_says_something_decides():
    found = report(pilot_error_code=1150, exe_error_code=1099)
    assert (found.code, found.transient) == (Code.LOOPING_JOB, False)
    assert report(pilot_error_code=1305, exe_error_code=1305).code == Code.PAYLOAD_FAILED


@pytest.mark.field("P7")
@pytest.mark.parametrize(
    ("exit_code", "code", "words"),
    [(2, 1378, "Lsetup command timed out"), (3, 1368, "Remote file open timed out")],
)
def test_an_exit_code_that_pilot_3_reads_as_an_error_of_its_own_is_the_payloads(
    exit_code, code, words
):
    found = report(pilot_error_code=code, pilot_error_diag=words, trans_exit_code=exit_code)
    assert (found.code, found.exit_code) == (Code.PAYLOAD_FAILED, exit_code)
    assert found.diagnosis == f"the payload ended with exit code {exit_code}"
    real = report(pilot_error_code=code, pilot_error_diag=words, trans_exit_code=0)
    assert (real.code, real.diagnosis) == (code, words)


@pytest.mark.field("P7")
def test_the_pilot_may_still_say_why_it_killed_a_payload():
    found = report(pilot_error_code=1235, trans_exit_code=137)
    assert (found.code, found.exit_code) == (Code.OVER_MEMORY, 137)


@pytest.mark.field("P4")
@pytest.mark.parametrize(("size", "listed"), [(1, []), (5, ["maybe"])])
def test_an_optional_output_that_was_not_made_is_not_listed(size, listed):
    spec = JobSpec(name="j", command="x", outputs=(OutputFile(name="maybe", optional=True),))
    absent = {"name": "maybe", "url": "", "size": 1, "adler32": "000b000b", "absent": True}
    entry = {"fsize": size, "adler32": "000b000b", "surl": "file:///s/1.1.maybe"}
    update = read_update(
        {
            "job_id": 1,
            "job_status": "finished",
            "job_output_report": json.dumps({"1.1.maybe": entry}),
            "meta_data": json.dumps({"ailurus": [absent]}),
        },
        "v1",
    )
    found = reports.report(update, reports.HandedOut(1, 1, spec), now=0.0)
    assert (found.finished, [file.name for file in found.files]) == (True, listed)
