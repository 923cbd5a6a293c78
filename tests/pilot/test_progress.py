"""How far a job's files have come, as its heartbeats say."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile, OutputFile
from dispatcher.cli.show import _staging
from pilot.flow import carry
from pilot.ports import ProcessEnd
from pilot.progress import StagingProgress
from tests.pilot.fakes import FakeClock, World


def test_files_and_bytes_are_counted():
    clock = FakeClock()
    progress = StagingProgress(clock)
    progress.expect("a", 100)
    progress.expect("b", 300)
    clock.forward(2)
    progress.done("a", 100)
    progress.moved("b", 50)
    assert progress.now() == m.Staging(
        files=2, done=1, moved_bytes=150, total_bytes=400, seconds=2.0
    )


def test_a_size_that_nobody_knows_leaves_the_total_open():
    progress = StagingProgress(FakeClock())
    progress.expect("a", None)
    assert progress.now().total_bytes is None
    progress.done("a", 7)
    assert progress.now().total_bytes == 7


def test_heartbeats_tell_of_both_ways_and_of_nothing_between(tmp_path):
    seen: list[m.Staging | None] = []

    def look() -> None:
        seen.append(world.kit.reporter._update(attempt).staging)

    def program(spec):
        look()
        with open(f"{spec.directory}/o", "wb") as file:  # noqa: PTH123
            file.write(b"12345")
        return ProcessEnd(key=1)

    world = World(tmp_path, program)
    world.storage.files = {"file:///s/i": b"123"}
    world.storage.on_call = lambda check: look()
    attempt = world.attempt(
        inputs=(InputFile(name="i", url="file:///s/i", size=3),),
        outputs=(OutputFile(name="o"),),
    )
    carry(attempt, world.kit)
    assert world.reports()[0].finished
    arriving, between, leaving = seen
    assert (arriving.files, arriving.done, arriving.total_bytes) == (1, 0, 3)
    assert between is None
    assert (leaving.files, leaving.total_bytes) == (1, 5)


def test_show_says_how_fast_and_how_long_still():
    now = m.Staging(files=3, done=1, moved_bytes=50_000_000, total_bytes=200_000_000, seconds=5)
    assert _staging(now) == "1 of 3 moved, 50.0 of 200.0 MB, 10.0 MB/s, 15s left"
    assert _staging(m.Staging(files=1)) == "0 of 1 moved, 0.0 MB"
