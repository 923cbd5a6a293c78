"""Adoption: a pilot that lives goes on with what another on its spool left."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from pilot.upstream.adoption import LONGEST_LOOK_S, LOOK_S, Adoption
from pilot.upstream.spool import Begun, Spool
from tests.pilot.fakes import World

TREE = tuple(f"file:///out/7.1.t/sub/{nr}" for nr in range(3))


def dies_amid_a_tree(spool: Path) -> None:
    """A pilot whose job leaves a tree, and that is killed while it stores it."""
    dead = Spool(spool, "dead").own
    first = Begun(job_id=7, attempt_nr=1, report_key="k")
    dead.begin([first])
    dead.begin([Begun(job_id=7, attempt_nr=1, report_key="k", outputs=TREE)])
    dead.close()


def test_a_living_pilot_removes_each_file_of_a_tree_that_another_left(world: World) -> None:
    adoption = Adoption(world.spool, world.kit.reporter, world.clock)
    adoption.look()
    assert adoption.journals == []
    dies_amid_a_tree(world.spool.directory)
    world.storage.files |= dict.fromkeys(TREE, b"x")
    adoption.look()
    world.kit.reporter.cleaner.turn()
    assert not set(TREE) & set(world.storage.files)
    assert [one.path.name for one in adoption.journals] == ["dead.journal"]


def test_what_one_pilot_has_adopted_no_other_takes(world: World) -> None:
    dies_amid_a_tree(world.spool.directory)
    Adoption(world.spool, world.kit.reporter, world.clock).look()
    other = Adoption(Spool(world.spool.directory, "other"), world.kit.reporter, world.clock)
    other.look()
    assert other.journals == []


def test_a_spool_that_is_slow_is_looked_at_less_often(world: World) -> None:
    adoption = Adoption(world.spool, world.kit.reporter, world.clock)
    assert adoption.look() == LOOK_S

    class Slow:
        def __init__(self, took_s: float) -> None:
            self.took_s = took_s

        def orphans(self) -> list[Any]:
            world.clock.forward(self.took_s)
            return []

    for took_s, pause_s in ((0.1, 1000.0), (60.0, LONGEST_LOOK_S)):
        slow: Any = Slow(took_s)
        pause = Adoption(slow, world.kit.reporter, world.clock).look()
        assert pause == pytest.approx(pause_s)


def test_a_spool_that_cannot_be_read_now_is_looked_at_again(world: World, logged: Any) -> None:
    class Broken:
        def orphans(self) -> list[Any]:
            raise OSError(116, "Stale file handle")

    broken: Any = Broken()
    assert Adoption(broken, world.kit.reporter, world.clock).look() == LOOK_S
    assert [line["event"] for line in logged] == ["spool_not_read"]


def test_a_journal_has_its_name_only_with_its_lock(tmp_path: Path, monkeypatch: Any) -> None:
    seen = []
    lock = fcntl.flock

    def look(fd: int, how: int) -> None:
        seen.append(list(tmp_path.rglob("*.journal")))
        lock(fd, how)

    monkeypatch.setattr("pilot.upstream.spool.fcntl.flock", look)
    spool = Spool(tmp_path / "spool", "me")
    assert seen == [[]]
    assert [one.name for one in spool.directory.iterdir()] == ["me.journal"]
