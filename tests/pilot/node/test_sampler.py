"""The sampler: what it tells of a payload, and when it looks closer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pilot.node.sampler import FINAL_ENTRIES, Held, Sampler, disk_rest_s, rest_s
from pilot.process.proc import Io, Mapped, Process
from pilot.process.usage import Nameless
from pilot.samples import LocalFiles, Sample, Sampled
from tests.pilot.fakes import FakeClock, FakeReadings

MB = 1024
FIRST, CHILD, SECOND, STRANGER = 101, 102, 201, 301


@pytest.fixture
def readings() -> FakeReadings:
    made = FakeReadings()
    made.processes = {
        FIRST: Process(1, 1.0, 10 * MB),
        CHILD: Process(FIRST, 2.0, 20 * MB),
        SECOND: Process(1, 4.0, 40 * MB),
        STRANGER: Process(1, 99.0, 99 * MB),
    }
    made.io = {FIRST: Io(1, 2, 3), SECOND: Io(10, 20, 30)}
    return made


@pytest.fixture
def sampler(readings: FakeReadings) -> Sampler:
    return Sampler(FakeClock(), readings)


def sampled(directory: Path, memory_mb: int = 1000, local: tuple[Path, ...] = ()) -> Sampled:
    return Sampled(memory_kb=memory_mb * MB, directory=str(directory), local=tuple(map(str, local)))


def test_all_that_the_node_started_for_a_payload_is_one_sample(sampler, tmp_path):
    sampler.watch("1.1", sampled(tmp_path))
    sampler.started("1.1", 1, lambda: FIRST)
    sampler.started("1.1", 2, lambda: SECOND)
    (sample,) = sampler.look(1000.0)
    assert (sample.key, sample.processes) == ("1.1", 3)
    assert (sample.cpu_s, sample.rss_kb) == (7.0, 70 * MB)
    assert (sample.read_bytes, sample.write_bytes, sample.moved_bytes) == (11, 22, 33)
    assert sample.used_kb is None
    assert sample.local is None


def test_cpu_time_of_what_the_node_started_stays_when_it_has_ended(sampler, readings, tmp_path):
    sampler.watch("1.1", sampled(tmp_path))
    sampler.started("1.1", 1, lambda: FIRST)
    sampler.started("1.1", 2, lambda: None)
    sampler.ended("1.1", 2, 4.0)
    sampler.ended("9.9", 2, 4.0)
    del readings.processes[SECOND]
    assert sampler.look(1000.0)[0].cpu_s == 7.0


def test_a_payload_of_which_nothing_runs_has_no_sample(sampler, tmp_path):
    sampler.watch("1.1", sampled(tmp_path))
    sampler.started("1.1", 1, lambda: None)
    assert sampler.look(1000.0) == []
    sampler.watch("2.1", sampled(tmp_path))
    sampler.started("2.1", 1, lambda: FIRST)
    sampler.started("9.9", 1, lambda: FIRST)
    assert [sample.key for sample in sampler.look(1000.0)] == ["2.1"]
    sampler.forget("2.1")
    assert sampler.look(1000.0) == []


def test_shared_pages_are_shared_out_above_the_limit_and_once_a_minute(sampler, readings, tmp_path):
    readings.pss = Mapped(20 * MB, 0)
    sampler.watch("small", sampled(tmp_path, memory_mb=25))
    sampler.started("small", 1, lambda: FIRST)
    sampler.watch("large", sampled(tmp_path))
    sampler.started("large", 1, lambda: SECOND)
    assert [one.used_kb for one in sampler.look(1000.0)] == [20 * MB, None]
    assert [one.used_kb for one in sampler.look(1031.0)] == [20 * MB, 20 * MB]
    assert [one.used_kb for one in sampler.look(1090.0)] == [20 * MB, None]
    assert [one.used_kb for one in sampler.look(1091.0)] == [20 * MB, 20 * MB]
    readings.pss = None
    assert sampler.look(1092.0)[0].used_kb == 30 * MB


def test_files_in_memory_are_told_apart(sampler, readings, tmp_path):
    readings.files = Nameless(5 << 20, 7 << 20)
    readings.dev_shm_kb, readings.shmem_kb = 3 * MB, 1 * MB
    sampler.watch("1.1", sampled(tmp_path))
    sampler.started("1.1", 1, lambda: FIRST)
    (sample,) = sampler.look(1000.0)
    assert sample.files_kb == 8 * MB
    assert sample.rss_kb == (30 + 8 - 1) * MB
    assert sample.nameless_bytes == 7 << 20


def test_directories_of_the_node_are_read_every_few_seconds(sampler, tmp_path):
    local = tmp_path / "local"
    local.mkdir()
    sampler.watch("1.1", sampled(tmp_path, local=(local,)))
    sampler.started("1.1", 1, lambda: FIRST)
    assert sampler.look(1001.0)[0].local == LocalFiles(used_bytes=0, mark=0, walks=0)
    before = sampler.look(1002.0)[0].local
    (local / "f").write_bytes(b"x" * 10_000)
    assert sampler.look(1004.0)[0].local == before
    after = sampler.look(1007.0)[0].local
    assert (before.walks, after.walks) == (1, 2)
    assert after.used_bytes >= 10_000
    assert after.mark != before.mark


def test_what_is_left_in_directories_of_the_node_counts_however_short_a_payload_ran(
    sampler, tmp_path
):
    local = tmp_path / "local"
    local.mkdir()
    sampler.watch("1.1", sampled(tmp_path, local=(local,)))
    (local / "f").write_bytes(b"x" * 10_000)
    left = sampler.forget("1.1")
    assert left.walks == 1
    assert left.used_bytes >= 10_000
    sampler.watch("2.1", sampled(tmp_path))
    assert sampler.forget("2.1") is None
    assert FINAL_ENTRIES > 1


def test_a_directory_that_is_gone_has_nothing(sampler, tmp_path):
    sampler.watch("1.1", sampled(tmp_path / "gone"))
    sampler.started("1.1", 1, lambda: FIRST)
    assert sampler.look(1000.0)[0].nameless_bytes == 0


def test_a_sample_passes_a_link_whole(sampler, tmp_path):
    sampler.watch("1.1", sampled(tmp_path, local=(tmp_path,)))
    sampler.started("1.1", 1, lambda: FIRST)
    (sample,) = sampler.look(1002.0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=Sample) == sample


def test_looks_take_a_four_hundredth_of_a_core():
    assert rest_s(0.0) == 1.0
    assert rest_s(0.01) == 4.0
    assert disk_rest_s(0.0, 1000) == 5.0
    assert disk_rest_s(0.01, 10) == 40.0


def test_the_mark_of_many_files_fits_a_message_and_tells_any_change(sampler, tmp_path):
    marks = set()
    for n in range(100):
        (tmp_path / f"file-{n}").touch()
        sampler.watch("1.1", sampled(tmp_path, local=(tmp_path,)))
        files = sampler.forget("1.1")
        marks.add(msgspec.msgpack.decode(msgspec.msgpack.encode(files), type=LocalFiles).mark)
    assert len(marks) == 100


def test_a_process_above_memory_of_its_own_is_told_once_shared_pages_are_shared_out(
    sampler, readings, tmp_path
):
    told: list[int] = []
    sampler.watch("1.1", sampled(tmp_path))
    sampler.started("1.1", 1, lambda: FIRST)
    for mark, memory_mb in (("small", 25), ("large", 31)):
        sampler.hold("1.1", mark, Held(lambda: FIRST, memory_mb * MB, told.append))
    sampler.hold("1.1", "not begun", Held(lambda: None, 0, told.append))
    readings.pss = Mapped(24 * MB, 0)
    sampler.look(1000.0)
    assert told == []
    readings.pss = Mapped(26 * MB, 0)
    sampler.look(1001.0)
    # With its child's.
    assert told == [26 * MB]
    sampler.let_go("1.1", "small")
    sampler.look(1002.0)
    assert told == [26 * MB]
