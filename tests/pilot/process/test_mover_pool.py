"""Whatever a mover does, each file of a batch ends, its child is replaced, and nothing of it
survives."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol.errors import AilurusError, Code
from pilot.ports import JobError, Moved, NotMoved, ToGet, ToPut
from pilot.process import children, mover, mover_pool
from pilot.process.children import Launch, mover_environment
from pilot.process.mover_pool import MoverPool, Watch
from tests.pilot.helpers import guarded, processes_with
from tests.rig.waiting import until

ROOT = Path(__file__).parents[3]


class Rig:
    """Pools whose movers are the tests' own."""

    def __init__(self, spawner: Any, directory: Path) -> None:
        self.directory = directory
        (directory / "in").mkdir()
        (directory / "marks").mkdir()
        self.stop: JobError | None = None
        self.wakeup = threading.Event()
        self.launch = Launch(
            spawner=spawner,
            directory=directory / "movers",
            command=[sys.executable, "-P", "-m", "tests.pilot.process.movers"],
            environment={**mover_environment({}), "PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}"},
            parallel=1,
        )
        self.pool = self.made()

    def made(self, **options: str) -> MoverPool:
        return MoverPool(
            "trouble", {"marks": str(self.directory / "marks"), **options}, self.launch
        )

    def check(self) -> None:
        if self.stop is not None:
            raise self.stop

    def watch(self, time_s: float = 30.0, **more: Any) -> Watch:
        return Watch(check=self.check, wakeup=self.wakeup, time_s=lambda size: time_s, **more)

    def files(self, *words: str) -> list[ToGet]:
        files = []
        for key, word in enumerate(words):
            source = self.directory / f"source-{key}"
            source.write_bytes(b"x" * key)
            files.append(ToGet(key=key, url=f"{word}:{source}", path=str(self.arrived(key))))
        return files

    def arrived(self, key: int) -> Path:
        return self.directory / "in" / str(key)

    def calls(self) -> list[str]:
        return (self.directory / "marks/calls").read_text().split("\n")[:-1]

    def pids(self) -> list[int]:
        return processes_with(f"{self.directory}/movers")


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(mover_pool, "PAUSES_S", (0.0,))
    with guarded() as spawner:
        made = Rig(spawner, tmp_path)
        yield made
        made.pool.close()
        assert made.pids() == []


def failing(call: Callable[[], object]) -> JobError:
    with pytest.raises(JobError) as raised:
        call()
    return raised.value


def code(end: Moved | NotMoved) -> Code:
    return end.code if isinstance(end, NotMoved) else Code.OK


def test_files_come_with_what_was_measured(rig):
    ends = rig.pool.get(rig.files("copy", "copy"), rig.watch())
    assert ends[1] == Moved(key=1, size=1, adler32=f"{zlib.adler32(b'x'):08x}")
    assert rig.arrived(1).read_bytes() == b"x"


def test_one_child_serves_all_batches_and_is_alone_with_its_socket(rig):
    rig.pool.get(rig.files("copy"), rig.watch())
    (before,) = rig.pids()
    rig.pool.get(rig.files("copy"), rig.watch())
    assert rig.pids() == [before]
    open_files = sorted(int(name) for name in os.listdir(f"/proc/{before}/fd"))  # noqa: PTH208 - names
    assert open_files == [0, 1, 2, 3]
    assert b"TOKEN" not in Path(f"/proc/{before}/environ").read_bytes()
    assert str(rig.directory / "marks").encode() not in Path(f"/proc/{before}/cmdline").read_bytes()


def test_an_output_is_read_by_its_descriptor_whatever_became_of_its_name(rig, tmp_path):
    output = tmp_path / "output"
    output.write_bytes(b"result")
    fd = os.open(output, os.O_RDONLY)
    output.unlink()
    output.symlink_to("/etc/passwd")
    order = ToPut(key=7, url=f"copy:{tmp_path}/stored", path="", size=6)
    ends = rig.pool.put([order], {7: fd}, rig.watch())
    os.close(fd)
    assert code(ends[7]) is Code.OK
    assert (tmp_path / "stored").read_bytes() == b"result"


def test_hundreds_of_outputs_go_in_batches_that_a_socket_takes(rig, tmp_path):
    fd = os.open("/etc/hostname", os.O_RDONLY)
    orders = [ToPut(key=n, url=f"copy:{tmp_path}/o{n}", path="", size=1) for n in range(300)]
    ends = rig.pool.put(orders, dict.fromkeys(range(300), fd), rig.watch())
    os.close(fd)
    assert {code(end) for end in ends.values()} == {Code.OK}
    assert len(ends) == 300


def test_a_file_past_its_time_costs_the_child_and_no_other_file(rig):
    ends = rig.pool.get(rig.files("copy", "hang", "copy"), rig.watch(0.4))
    assert [code(ends[key]) for key in range(3)] == [Code.OK, Code.STAGE_IN_TIMEOUT, Code.OK]
    assert rig.calls() == ["get 0", "get 1", "get 2"]
    assert until(lambda: not processes_with("87654"))


def test_an_upload_past_its_time_is_told_as_such(rig):
    fd = os.open("/etc/hostname", os.O_RDONLY)
    ends = rig.pool.put([ToPut(key=0, url="hang:", path="", size=1)], {0: fd}, rig.watch(0.3))
    os.close(fd)
    assert code(ends[0]) is Code.STAGE_OUT_TIMEOUT
    assert "min_speed" in ends[0].remedy


def test_what_a_child_past_its_time_had_begun_is_removed(rig, tmp_path):
    ends = rig.pool.get(rig.files("copy", "part"), rig.watch(0.4))
    assert code(ends[1]) is Code.STAGE_IN_TIMEOUT
    assert not rig.arrived(1).exists()


@pytest.mark.parametrize(("word", "left"), [("part", False), ("locked", True)])
def test_an_upload_past_its_time_is_removed_or_said_to_be_there(rig, tmp_path, word, left):
    fd = os.open("/etc/hostname", os.O_RDONLY)
    order = ToPut(key=7, url=f"{word}:{tmp_path}/stored", path="", size=1)
    ends = rig.pool.put([order], {7: fd}, rig.watch(0.4))
    os.close(fd)
    assert code(ends[7]) is Code.STAGE_OUT_TIMEOUT
    assert ends[7].left is left
    assert (tmp_path / "stored").exists() is left


def test_a_child_that_is_killed_is_replaced_and_the_file_tried_again(rig):
    ends = rig.pool.get(rig.files("copy", "once", "copy"), rig.watch())
    assert {code(end) for end in ends.values()} == {Code.OK}
    assert rig.calls() == ["get 0", "get 1", "get 2", "get 1"]


def test_a_file_that_kills_each_child_is_told_so_after_three(rig):
    ends = rig.pool.get(rig.files("die", "copy"), rig.watch())
    assert code(ends[1]) is Code.OK
    assert ends[0].code is Code.STAGE_IN_FAILED
    assert "died 3 times with this file: signal 9" in ends[0].message
    assert rig.calls().count("get 0") == 3


def test_files_of_one_job_that_kill_children_break_no_others_transfers(rig, monkeypatch):
    monkeypatch.setattr(mover_pool, "PAUSES_S", (0.0, 0.0, 0.0, 0.0, 0.0, 30.0))
    error = failing(lambda: rig.pool.get(rig.files("die", "die", "die"), rig.watch()))
    assert error.code is Code.SERVICE_UNAVAILABLE
    began = time.monotonic()
    ends = rig.pool.get(rig.files("copy"), rig.watch())
    assert code(ends[0]) is Code.OK
    assert time.monotonic() - began < 10


def test_names_that_are_no_text_are_told_and_cost_no_child(rig, tmp_path):
    error = failing(lambda: rig.pool.expand(f"odd:{tmp_path}", rig.watch()))
    assert "no text of UTF-8" in error.message
    assert error.remedy
    ends = rig.pool.get(rig.files("odd", "copy"), rig.watch())
    assert [code(ends[key]) for key in range(2)] == [Code.STAGE_IN_FAILED, Code.OK]
    assert "is away" in ends[0].message
    assert len(rig.pids()) == 1


def test_a_mover_that_dies_before_it_is_ready_is_given_up_after_a_few(rig):
    broken = rig.made(setup="die")
    mover_pool.PAUSES_S = (0.0, 0.0, 0.0, 0.0, 0.0, 30.0)
    error = failing(lambda: broken.get(rig.files("copy"), rig.watch()))
    assert error.code is Code.SERVICE_UNAVAILABLE
    assert "signal 9" in error.message
    # The next job is told at once.
    began = time.monotonic()
    failing(lambda: broken.get(rig.files("copy"), rig.watch()))
    assert time.monotonic() - began < 1


def test_a_library_that_is_missing_and_options_that_are_wrong_are_said(rig):
    missing = failing(lambda: rig.made(setup="import").get(rig.files("copy"), rig.watch()))
    assert missing.code is Code.SERVICE_UNAVAILABLE
    assert "no_such_library" in missing.message
    wrong = failing(lambda: rig.made(marks=7).get(rig.files("copy"), rig.watch()))
    assert "options of trouble" in wrong.message
    refused = failing(lambda: rig.made(setup="refuse").get(rig.files("copy"), rig.watch()))
    assert (refused.message, refused.remedy) == ("no token", "renew it")


def test_what_a_mover_raises_is_told_of_each_file_that_had_no_end(rig):
    ends = rig.pool.get(rig.files("copy", "raise", "copy"), rig.watch())
    assert code(ends[0]) is Code.OK
    assert {code(ends[key]) for key in (1, 2)} == {Code.STAGE_IN_FAILED}
    assert "RuntimeError: no such thing" in ends[2].message
    assert len(rig.pids()) == 1


def test_a_url_that_means_nothing_to_a_plugin_is_no_failure_of_its_library():
    error = AilurusError("rucio:x has no scope", remedy="write scope:name")
    said = mover._refused(error, Code.STAGE_IN_FAILED)
    assert said == mover.Refused(Code.STAGE_IN_FAILED, "rucio:x has no scope", "write scope:name")


def test_a_file_of_which_nothing_is_said_has_failed(rig):
    ends = rig.pool.get(rig.files("forget"), rig.watch())
    assert "did not say how this file fared" in ends[0].message


def test_the_first_word_of_a_file_counts(rig):
    assert code(rig.pool.get(rig.files("twice"), rig.watch())[0]) is Code.OK


def test_a_flood_of_progress_stays_in_the_child(rig):
    seen: list[int] = []
    watch = rig.watch(progress=lambda key, moved: seen.append(moved))
    ends = rig.pool.get(rig.files("flood"), watch)
    assert code(ends[0]) is Code.OK
    assert 1 <= len(seen) < 20


def test_a_flood_of_words_of_a_library_fills_no_disk(rig):
    sizes: list[int] = []

    def progress(key: int, moved: int) -> None:
        (stderr,) = rig.directory.glob("movers/*/stderr")
        sizes.append(stderr.stat().st_size)
        if len(sizes) == 6:
            raise JobError(Code.INPUTS_TOO_LARGE, "enough")

    rig.pool.get(rig.files("shout"), rig.watch(progress=progress))
    assert max(sizes) <= 3 << 20


@pytest.mark.parametrize("word", ["nonsense", "deep"])
def test_a_child_that_talks_nonsense_is_replaced(rig, word):
    ends = rig.pool.get(rig.files(word, "copy"), rig.watch())
    assert code(ends[1]) is Code.OK
    assert "not understood" in ends[0].message


def test_a_file_that_grows_too_large_is_ended_alone(rig):
    def progress(key: int, moved: int) -> None:
        if moved > 1000:
            raise JobError(Code.INPUTS_TOO_LARGE, "too much")

    ends = rig.pool.get(rig.files("stop", "copy"), rig.watch(progress=progress))
    assert [code(ends[key]) for key in range(2)] == [Code.INPUTS_TOO_LARGE, Code.OK]


def test_a_job_that_stops_ends_its_transfer_and_leaves_the_pool_to_others(rig):
    def progress(key: int, moved: int) -> None:
        rig.stop = JobError(Code.KILLED_BY_SERVER, "stop")

    watch = rig.watch(progress=progress)
    error = failing(lambda: rig.pool.get(rig.files("hang"), watch))
    assert error.code is Code.KILLED_BY_SERVER
    rig.stop = None
    assert code(rig.pool.get(rig.files("copy"), rig.watch())[0]) is Code.OK
    assert until(lambda: not processes_with("87654"))


def test_a_job_that_waits_for_the_child_gets_it_and_may_be_stopped_meanwhile(rig):
    began, release = threading.Event(), threading.Event()

    def progress(key: int, moved: int) -> None:
        began.set()
        release.wait()

    first: list[Any] = []
    holder = threading.Thread(
        target=lambda: first.append(rig.pool.get(rig.files("copy"), rig.watch(progress=progress)))
    )
    holder.start()
    began.wait()
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise JobError(Code.KILLED_BY_SERVER, "stop")

    wakeup = threading.Event()
    errors: list[JobError] = []
    other = Watch(check=check, wakeup=wakeup, time_s=lambda size: 30.0)
    waiter = threading.Thread(
        target=lambda: errors.append(failing(lambda: rig.pool.get(rig.files("copy"), other)))
    )
    waiter.start()
    stopped.set()
    wakeup.set()
    waiter.join(10)
    release.set()
    holder.join(10)
    assert errors[0].code is Code.KILLED_BY_SERVER
    assert code(first[0][0]) is Code.OK


def test_a_transfer_whose_wakeup_another_of_its_job_took_gets_the_child_all_the_same(
    rig, monkeypatch
):
    monkeypatch.setattr(mover_pool, "AGAIN_S", 0.05)
    got: list[Any] = []
    waiter = threading.Thread(
        target=lambda: got.append(rig.pool.get(rig.files("copy"), rig.watch()))
    )
    with rig.pool._child(rig.watch()):
        waiter.start()
        until(lambda: rig.pool._waiting)
        # As the other does when it wakes.
        rig.pool._waiting = []
    waiter.join(10)
    assert code(got[0][0]) is Code.OK


def test_a_data_set_is_listed_and_files_are_removed(rig, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a").write_bytes(b"123")
    (found,) = rig.pool.expand(f"copy:{tmp_path}/set", rig.watch())
    assert (found.name, found.size) == ("a", 3)
    left = rig.pool.delete([f"copy:{tmp_path}/set/a", f"copy:{tmp_path}/set"], rig.watch())
    assert left == {f"copy:{tmp_path}/set": "it is a directory"}
    assert failing(lambda: rig.pool.delete(["die:"], rig.watch())).transient


def test_a_number_that_no_frame_holds_costs_a_call_and_not_the_child(rig, tmp_path):
    (tmp_path / "vast").write_bytes(b"123")
    error = failing(lambda: rig.pool.expand(f"copy:{tmp_path}", rig.watch()))
    assert "OverflowError" in error.message
    assert error.transient
    pids = rig.pids()
    rig.pool.get(rig.files("copy"), rig.watch())
    assert rig.pids() == pids != []


def test_a_child_that_nobody_needs_finishes_what_it_does_beside_its_calls(rig):
    rig.pool.get(rig.files("copy"), rig.watch())
    rig.pool.close()
    assert rig.calls() == ["get 0", "closes", "closed"]


def test_one_that_does_not_finish_is_killed(rig, monkeypatch):
    monkeypatch.setattr(children, "FINISH_S", 0.2)
    pool = rig.made(close="hang")
    pool.get(rig.files("copy"), rig.watch())
    pool.close()
    assert rig.calls() == ["get 0", "closes"]
    assert rig.pids() == []


def test_nothing_survives_the_guardian(tmp_path):
    with guarded() as spawner:
        rig = Rig(spawner, tmp_path)
        rig.pool.get(rig.files("copy"), rig.watch())
        assert rig.pids()
    assert until(lambda: not rig.pids())
    rig.pool.close()
