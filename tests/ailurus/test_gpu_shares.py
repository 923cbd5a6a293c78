"""A share of a GPU: as a job file says it, and its arithmetic."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import shape_of
from ailurus.protocol.resources import WHOLE, Resources, Room, Shape, least_share
from ailurus.protocol.submission import check, jobs_from


def read(gpus, **fields):
    jobs = jobs_from({"name": "j", "command": "true", "gpus": gpus, **fields})
    check(jobs)
    return jobs[0]


@pytest.mark.parametrize(
    ("written", "share"),
    [(0.5, 50), (0.1, 10), (0.9, 90), (0.33, 33), ({"count": 0.25, "model": "H200"}, 25)],
)
def test_a_job_file_asks_for_a_share_in_place_of_a_number(written, share):
    job = read(written)
    assert (job.gpus, job.gpu_share) == (1, share)
    shape = shape_of(job)
    assert (shape.gpus, shape.gpu_share) == (1, share)


@pytest.mark.parametrize(
    "written", [1.5, 0.05, 0.95, 0.333, 0.999, -0.5, float("nan"), float("inf")]
)
def test_what_is_no_share_of_one_device_is_refused_by_its_field(written):
    with pytest.raises(AilurusError, match="neither a number of GPUs nor a share") as error:
        read(written)
    assert error.value.field == "jobs[0].gpus"
    with pytest.raises(AilurusError) as error:
        read({"count": written, "model": "H200"})
    assert error.value.field == "jobs[0].gpus.count"


@pytest.mark.parametrize("fields", [{"gpus": 2, "gpu_share": 50}, {"gpus": 1, "gpu_share": 5}])
def test_a_share_is_of_one_device_and_not_too_small(fields):
    with pytest.raises(AilurusError, match="share is of one GPU"):
        read(**fields)


@pytest.mark.parametrize("jobs", range(2, 11))
def test_as_many_share_a_device_as_its_site_says_and_not_one_more(jobs):
    least = least_share(jobs)
    room = Room(cores=99, gpus=1, gpu_share=least)
    for share in (10, least):
        shape = Shape(cores=1, memory_mb=0, gpus=1, gpu_share=share)
        assert room.capacity(shape) == (jobs if share <= least else WHOLE // share)


shares = st.integers(10, 90)
free = st.builds(
    Resources, cores=st.just(99), gpus=st.integers(0, 3),
    gpu_share=st.sampled_from([0, 10, 25, 50]),
    gpu_parts=st.lists(shares, max_size=4).map(lambda one: tuple(sorted(one, reverse=True))),
)  # fmt: skip


@given(free, shares)
def test_as_many_fit_as_it_holds_and_not_one_more(there, share):
    each = Resources(cores=1, gpus=1, gpu_share=share)
    count = there.holds(each)
    left = there
    for _ in range(count):
        assert each.within(left)
        left = left.less(each)
    assert not each.within(left)
    assert there.less(each, count) == left


@given(free, shares)
def test_a_share_takes_of_one_device_alone_and_a_whole_one_only_where_it_must(there, share):
    each = Resources(cores=1, gpus=1, gpu_share=share)
    if not each.within(there):
        return
    left, taken = there.less(each), max(share, there.gpu_share)
    hundredths = [WHOLE * one.gpus + sum(one.gpu_parts) for one in (there, left)]
    assert hundredths[0] - hundredths[1] == taken
    in_a_part = any(part >= taken for part in there.gpu_parts)
    assert left.gpus == there.gpus - (not in_a_part)


@given(free, shares, st.integers(1, 3))
def test_whole_devices_are_not_made_of_parts(there, share, count):
    assert Resources(gpus=count).within(there) == (count <= there.gpus)
    assert Room.of(there, seconds_left=None).most_of_a_gpu() == (
        0 if not there.gpu_share else WHOLE if there.gpus else max(there.gpu_parts, default=0)
    )
