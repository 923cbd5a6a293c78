"""Images of registries: fetched once, kept while they are used, and evicted by age and size. A
script stands in for Apptainer."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from pilot.ports import ContainerSetup, ImageCache, JobError
from pilot.process.spawner import GuardedSpawner
from plugins.container import cache
from tests.pilot.helpers import guarded
from tests.plugins import sifs
from tests.plugins.test_images import SUPERBLOCK

REGISTRY = "docker://registry.example.org/atlas/"
NAME = f"{REGISTRY}analysis@sha256:{'0' * 64}"
PULL = """#!/bin/sh
# apptainer --silent pull --disable-cache --force INTO NAME
echo "$6" >>"{calls}"
case $6 in
*absent*) echo "FATAL: manifest unknown" >&2; exit 255 ;;
*other*) head -c 10 "{good}" >"$5"; echo "FATAL: digest mismatch" >&2; exit 255 ;;
*slow*) sleep 60 ;;
esac
exec cp "{good}" "$5"
"""


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """What the stand-in was asked for, a line each."""
    good, made = tmp_path / "good.sif", tmp_path / "calls"
    good.write_bytes(sifs.pieces([sifs.descriptor(4096, 96)], SUPERBLOCK))
    made.touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    script = programs / "apptainer"
    script.write_text(PULL.format(calls=made, good=good))
    script.chmod(0o755)
    return made


def kept(directory: Path, most_bytes: int = 1 << 30, most_s: float = 1e6) -> ImageCache:
    return ImageCache(
        directory=str(directory), registries=(REGISTRY,), most_bytes=most_bytes, most_s=most_s
    )


@pytest.fixture
def made(tmp_path: Path, spawner: GuardedSpawner, calls: Path) -> Callable[[], cache.Cache]:
    """Makes the cache of one more pilot."""
    setup = ContainerSetup(
        directory=str(tmp_path),
        user="somebody",
        apptainer=str(tmp_path / "programs"),
        cache=kept(tmp_path / "cache"),
        spawner=spawner,
    )
    return lambda: cache.Cache(setup)


def never() -> None:
    """No job is to stop."""


def files(tmp_path: Path) -> list[str]:
    return sorted(path.suffix for path in (tmp_path / "cache/images").iterdir())


def test_an_image_stays_the_same_for_each_job(made: Callable[[], cache.Cache]) -> None:
    """Else each job would have it mounted anew."""
    pilot = made()
    assert pilot.image(NAME, never) == pilot.image(NAME, never)


def test_pilots_fetch_an_image_once(
    made: Callable[[], cache.Cache], calls: Path, tmp_path: Path
) -> None:
    pilots = [made() for _ in range(3)]
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(one.image(NAME, never)))
        for one in pilots
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert calls.read_text("utf-8").splitlines() == [NAME]
    assert files(tmp_path) == [".sif"]


@pytest.mark.parametrize(
    ("name", "why"), [("absent", "manifest unknown"), ("other", "digest mismatch")]
)
def test_what_cannot_be_fetched_leaves_nothing(
    made: Callable[[], cache.Cache], tmp_path: Path, name: str, why: str
) -> None:
    with pytest.raises(JobError, match=why) as error:
        made().image(f"{REGISTRY}{name}", never)
    assert error.value.code is Code.IMAGE_NOT_FOUND
    assert error.value.transient
    assert error.value.remedy
    assert files(tmp_path) == []


def test_a_job_that_is_to_stop_waits_for_no_image(
    made: Callable[[], cache.Cache], tmp_path: Path
) -> None:
    def stop() -> None:
        raise JobError(Code.STAGE_IN_TIMEOUT, "cancelled")

    with pytest.raises(JobError, match="cancelled"):
        made().image(f"{REGISTRY}slow", stop)
    assert files(tmp_path) == []


def test_a_job_names_no_other_registry(made: Callable[[], cache.Cache], calls: Path) -> None:
    for name in ("docker://registry.example.org/other/x", f"{NAME} --force", "oras://x/y"):
        with pytest.raises(JobError) as error:
            made().image(name, never)
        assert error.value.code is Code.NOT_IMPLEMENTED
    assert calls.read_text("utf-8") == ""


def filled(directory: Path, sizes: dict[str, int]) -> None:
    """Images of so many bytes: the first was last used 5 s ago, each other an hour before that."""
    for part in ("images", "locks"):
        (directory / part).mkdir(parents=True)
    now = time.time()
    for hours, (name, size) in enumerate(sizes.items()):
        image = directory / "images" / f"{name}.sif"
        image.write_bytes(bytes(size))
        lock = directory / "locks" / name
        lock.touch()
        os.utime(lock, (now - 3600 * hours - 5,) * 2)


@pytest.mark.parametrize(
    ("most_bytes", "most_s", "gone"),
    [
        (1000, 1e6, []),
        (250, 1e6, ["old"]),
        (100, 1e6, ["old", "middle"]),
        (1000, 3700, ["old"]),
        (1000, 1, ["old", "middle", "new"]),
    ],
)
def test_images_go_by_age_and_then_the_longest_unused_by_size(
    tmp_path: Path, most_bytes: int, most_s: float, gone: list[str]
) -> None:
    filled(tmp_path, {"new": 100, "middle": 100, "old": 100})
    assert [path.stem for path in cache.evict(kept(tmp_path, most_bytes, most_s))] == gone
    assert len(list((tmp_path / "images").iterdir())) == 3 - len(gone)


def test_an_image_in_use_is_not_evicted(tmp_path: Path) -> None:
    filled(tmp_path, {"new": 100, "old": 100})
    with (tmp_path / "locks" / "old").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert [path.stem for path in cache.evict(kept(tmp_path, 100))] == ["new"]
    assert (tmp_path / "images/old.sif").exists()
