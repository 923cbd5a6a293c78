"""What a client says that wants jobs is the same in both of PanDA's dialects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.panda_acquire import ACQUIRE, JobRequest, acquire_arguments, job_request

NAMES = st.text("abcdefghij-_.0123456789", max_size=20).map(lambda text: f"x{text}")
NUMBERS = st.none() | st.integers(0, 2**40)
REQUESTS = st.builds(
    JobRequest,
    site=NAMES,
    label=st.just("") | NAMES,
    node=st.just("") | NAMES,
    computing_element=st.just("") | NAMES,
    memory_mb=NUMBERS,
    disk_mb=NUMBERS,
    seconds_left=NUMBERS,
    count=NUMBERS,
    resource_type=st.just("") | NAMES,
    task_id=NUMBERS,
    harvester_id=st.just("") | NAMES,
    worker_id=NUMBERS,
    scheduler_id=st.just("") | NAMES,
    proxy_key=st.sampled_from(["", "True", "False"]),
)


@pytest.mark.parametrize("spelling", ["legacy", "v1"])
@given(request_=REQUESTS)
def test_what_is_said_is_read_again(spelling, request_: JobRequest) -> None:
    assert job_request(acquire_arguments(request_, spelling), spelling) == request_


@given(request_=REQUESTS)
def test_legacy_values_may_be_text(request_: JobRequest) -> None:
    texts = {name: str(value) for name, value in acquire_arguments(request_, "legacy").items()}
    assert job_request(texts, "legacy") == request_


def test_a_value_that_says_nothing_is_not_there_in_legacy() -> None:
    request = job_request({"siteName": "q", "mem": "NULL", "node": "NULL", "nJobs": "x"}, "legacy")
    assert request == JobRequest(site="q")


def test_no_name_stands_twice() -> None:
    for column in ("legacy", "v1", "ours"):
        names = [name for one in ACQUIRE if (name := getattr(one, column))]
        assert len(names) == len(set(names))
    assert {one.ours for one in ACQUIRE if one.ours} == set(JobRequest.__struct_fields__)
