"""Who is responsible for a failure: every errno, every ending, and nothing that a payload
prints."""

from __future__ import annotations

import errno
import os

import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from pilot.blame import GUARDIAN_DIED, Evidence, Responsible, Target, ending, job_error, responsible

LACKS = [
    "EAGAIN",
    "ENOMEM",
    "ENOSPC",
    "EDQUOT",
    "EMFILE",
    "ENFILE",
    "EIO",
    "ESTALE",
    "EROFS",
    "ENOTCONN",
    "ENOLCK",
    "ETXTBSY",
]
ASKED = [
    "E2BIG",
    "ENOENT",
    "EACCES",
    "EPERM",
    "ENOEXEC",
    "EINVAL",
    "ENOTDIR",
    "EISDIR",
    "ELOOP",
    "ENAMETOOLONG",
]


def number(name: str) -> int:
    return int(getattr(errno, name))


@pytest.mark.field("L4")
@pytest.mark.parametrize("thing", Target)
@pytest.mark.parametrize("name", LACKS)
def test_what_a_node_lacks_is_tried_elsewhere_wherever_it_is_met(name: str, thing: Target) -> None:
    error = job_error(OSError(number(name), os.strerror(number(name))), "cannot do it", thing)
    assert responsible(number(name), thing) is Responsible.NODE
    assert error.transient
    assert "cannot do it" in error.message
    assert error.message.startswith("the storage" if thing is Target.STORAGE else "this node")
    assert "too long" not in error.remedy


@pytest.mark.field("L4")
@pytest.mark.parametrize("name", ASKED)
def test_what_a_job_asks_for_is_its_own_and_final(name: str) -> None:
    error = job_error(number(name), "the payload could not be started", Target.JOB)
    assert (error.code, error.transient) == (Code.PAYLOAD_FAILED, False)
    assert error.remedy


@pytest.mark.field("L4", "W9")
def test_a_missing_work_directory_is_not_the_jobs_and_a_long_environment_is_not_the_sandboxs() -> (
    None
):
    assert job_error(errno.ENOENT, "cannot make the work directory", Target.NODE).transient
    assert job_error(errno.ENOENT, "bwrap could not be started", Target.RUNTIME).code is (
        Code.CONTAINER_FAILED
    )
    long = job_error(errno.E2BIG, "the payload could not be started", Target.RUNTIME)
    assert (long.code, long.transient) == (Code.PAYLOAD_FAILED, False)
    assert "environment" in long.remedy


def test_every_errno_there_is_has_an_owner_and_an_unknown_one_costs_no_job() -> None:
    for one in errno.errorcode:
        for thing in Target:
            error = job_error(OSError(one, os.strerror(one)), "what", thing)
            assert error.transient is (responsible(one, thing) is not Responsible.JOB)
    assert job_error(OSError("no errno at all"), "what", Target.JOB).transient
    assert job_error(12345, "what", Target.JOB).transient


@pytest.mark.field("W9")
def test_a_full_node_and_a_full_storage_are_told_apart() -> None:
    node = job_error(errno.ENOSPC, "cannot write in.root", Target.NODE)
    storage = job_error(
        errno.ENOSPC, "cannot write out.root", Target.STORAGE, code=Code.STAGE_OUT_FAILED
    )
    assert (node.code, storage.code) == (Code.NO_LOCAL_SPACE, Code.STAGE_OUT_FAILED)
    assert node.message.startswith("this node has no space")
    assert storage.message.startswith("the storage has no space")


@pytest.mark.field("W1", "L4", "W2")
@pytest.mark.parametrize(
    ("seen", "code", "transient"),
    [
        (Evidence(exit_code=3), Code.PAYLOAD_FAILED, False),
        (Evidence(exit_code=1, runtime=True, last_words="bwrap: no"), Code.PAYLOAD_FAILED, False),
        (Evidence(exit_code=127, runtime=True), Code.PAYLOAD_FAILED, False),
        (Evidence(exit_code=126), Code.PAYLOAD_FAILED, False),
        (Evidence(exit_code=126, noexec=True), Code.RESOURCE_UNAVAILABLE, True),
        (Evidence(exit_code=1, runtime=True, ran=False), Code.CONTAINER_FAILED, True),
        (
            Evidence(exit_code=1, runtime=True, ran=False, last_words="fine"),
            Code.CONTAINER_FAILED,
            True,
        ),
        (Evidence(exit_code=137, runtime=True, ran=False), Code.CONTAINER_FAILED, True),
        (Evidence(errno=GUARDIAN_DIED), Code.INTERNAL, True),
        (Evidence(errno=errno.EAGAIN), Code.RESOURCE_UNAVAILABLE, True),
        (Evidence(errno=errno.EIO), Code.RESOURCE_UNAVAILABLE, True),
        (Evidence(errno=errno.ENOENT), Code.PAYLOAD_FAILED, False),
        (Evidence(errno=errno.ENOENT, before=True), Code.RESOURCE_UNAVAILABLE, True),
        (Evidence(errno=errno.ENOSPC, before=True), Code.NO_LOCAL_SPACE, True),
        (Evidence(errno=errno.ENOENT, runtime=True), Code.CONTAINER_FAILED, True),
        (Evidence(exit_code=137), Code.PAYLOAD_FAILED, False),
        (Evidence(exit_code=137, oom_kills=1), Code.OUT_OF_MEMORY, False),
        (
            Evidence(exit_code=137, oom_kills=1, used_kb=10, requested_kb=99),
            Code.OUT_OF_MEMORY,
            True,
        ),
        (
            Evidence(exit_code=137, oom_kills=1, used_kb=98, requested_kb=99),
            Code.OUT_OF_MEMORY,
            False,
        ),
        (Evidence(exit_code=1, oom_kills=1), Code.PAYLOAD_FAILED, False),
    ],
    ids=str,
)
def test_how_it_ended_says_whose_fault_it_is(seen: Evidence, code: Code, transient: bool) -> None:
    error = ending(seen)
    assert error is not None
    assert (error.code, error.transient) == (code, transient)
    assert error.remedy or code is Code.INTERNAL


@pytest.mark.field("W2")
def test_kills_for_memory_are_named_in_any_failure() -> None:
    for exit_code in (1, 3, 134, 137, 143):
        error = ending(Evidence(exit_code=exit_code, oom_kills=2, where="in this worker's cgroup"))
        assert error is not None
        assert "2 processes for memory in this worker's cgroup" in error.message
    assert ending(Evidence(oom_kills=2)) is None


@pytest.mark.field("W1")
def test_no_text_decides() -> None:
    for words in ("bwrap: Can't mkdir", "Out of memory", "No space left on device", "\0", "%s"):
        for seen in (
            Evidence(exit_code=1),
            Evidence(exit_code=137),
            Evidence(exit_code=1, ran=False),
        ):
            plain, said = ending(seen), ending(replace(seen, last_words=words))
            assert plain is not None
            assert said is not None
            assert (plain.code, plain.transient) == (said.code, said.transient)
