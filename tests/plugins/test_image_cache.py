"""Images of registries: fetched once, kept while they are used, and evicted by age and size. A
script stands in for Apptainer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from pilot.ports import ContainerSetup, ImageCache, JobError
from pilot.process.spawner import GuardedSpawner
from plugins.container import cache, pulls
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
*bomb*) mkdir -p "$TMPDIR/a/b"; head -c 200000000 /dev/zero >"$TMPDIR/a/b/zeros"
    chmod 0 "$TMPDIR/a/b" "$TMPDIR/a"; sleep 60 ;;
*many*) i=0; while [ $i -lt 300 ]; do : >"$TMPDIR/$i"; i=$((i + 1)); done ;;
*words*) head -c 100000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo "FATAL: at last" >&2; exit 255 ;;
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
    good.write_bytes(sifs.pieces([sifs.descriptor(4096, 128)], SUPERBLOCK))
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


def refused(pilot: cache.Cache, name: str = NAME) -> JobError:
    with pytest.raises(JobError) as error:
        pilot.image(name, never)
    assert error.value.remedy
    return error.value


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


@pytest.mark.parametrize("what", ["bomb", "many"])
def test_what_unpacks_to_too_much_is_ended_and_leaves_nothing(
    what: str, made: Callable[[], cache.Cache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "MOST_ENTRIES", 100)
    pilot = made()
    monkeypatch.setattr(pilot, "_cache", kept(tmp_path / "cache", most_bytes=100 << 20))
    began = time.monotonic()
    error = refused(pilot, f"{REGISTRY}{what}:v1")
    assert (error.code, error.transient) == (Code.IMAGE_UNUSABLE, False)
    assert "container.cache_size" in error.remedy
    assert time.monotonic() - began < 20
    assert files(tmp_path) == []


def test_a_node_without_room_for_an_image_is_not_filled(
    made: Callable[[], cache.Cache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulls, "ROOM", 0.0)
    error = refused(made(), f"{REGISTRY}bomb:v1")
    assert (error.code, error.transient) == (Code.NO_LOCAL_SPACE, True)
    assert files(tmp_path) == []


def test_of_what_apptainer_says_the_end_is_read(made: Callable[[], cache.Cache]) -> None:
    error = refused(made(), f"{REGISTRY}words:v1")
    assert error.message.endswith("FATAL: at last")


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


@pytest.mark.parametrize(
    ("registry", "name", "fine"),
    [
        ("docker://r.example.org/atlas/", "docker://r.example.org/atlas/x:1", True),
        ("docker://r.example.org/atlas", "docker://r.example.org/atlas/x@sha256:0", True),
        ("docker://r.example.org/atlas", "docker://r.example.org/atlas:1", True),
        ("docker://r.example.org/atlas", "docker://r.example.org/atlas-of-others/x", False),
        ("docker://r.example.org", "docker://r.example.org/x", True),
        ("docker://r.example.org", "docker://r.example.org.elsewhere.org/x", False),
        ("docker://r.example.org", "docker://r.example.org:5000/x", False),
        ("docker://r.example.org", "docker://r.example.org@elsewhere.org/x", False),
        ("oras://r.example.org/atlas/", "oras://r.example.org/atlas/../private/x:1", False),
        ("oras://r.example.org/atlas/", "oras://r.example.org/atlas/./x:1", False),
    ],
)
def test_the_names_of_a_registry_end_where_the_sites_do(registry, name, fine):
    assert cache._of(name, registry) is fine


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


def theirs(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 4321, 4321)


def linked(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    directory.symlink_to("elsewhere")


def open_to_a_group(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o770)


def in_a_directory_of_everybody(directory: Path) -> None:
    directory.parent.chmod(0o777)


@pytest.mark.parametrize("attack", [theirs, linked, open_to_a_group, in_a_directory_of_everybody])
def test_p12_nobody_else_puts_images_into_a_users_cache_or_keeps_them_out(
    made: Callable[[], cache.Cache],
    tmp_path: Path,
    calls: Path,
    attack: Callable[[Path], None],
) -> None:
    if attack is theirs and os.geteuid() != 0:
        pytest.skip("gives a directory to another user")
    attack(tmp_path / "cache")
    if attack is in_a_directory_of_everybody:
        # The pilot's own lies there, too.
        error = refused(made())
        assert error.code is Code.CONTAINER_FAILED
        assert error.transient
        assert "another user could put images" in str(error)
        assert calls.read_text("utf-8") == ""
        return
    pilot = made()
    own = tmp_path / "images-of-registries"
    for _ in range(2):
        assert own in Path(pilot.image(NAME, never).path).parents
    assert calls.read_text("utf-8").splitlines() == [NAME]
    assert own.stat().st_mode & 0o777 == 0o700


def test_a_cache_beside_directories_of_others_is_taken(
    made: Callable[[], cache.Cache], tmp_path: Path
) -> None:
    """/tmp, say: what is sticky is safe."""
    tmp_path.chmod(0o1777)
    assert made().image(NAME, never).offset == 4096
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_p12_a_link_in_place_of_a_lock_is_not_followed(
    made: Callable[[], cache.Cache], tmp_path: Path
) -> None:
    image = made().image(NAME, never)
    lock = tmp_path / "cache/locks" / Path(image.path).stem
    lock.unlink()
    lock.symlink_to(tmp_path / "precious")
    refused(made())
    assert not (tmp_path / "precious").exists()


def spoilt(path: str) -> None:
    """As by a disk: of the same size, and with a head that is whole."""
    image = Path(path)
    image.chmod(0o600)
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)


def released(pilot: cache.Cache) -> None:
    """As its end does."""
    for lock in pilot._held.values():
        os.close(lock)


def test_what_is_no_longer_what_was_fetched_is_fetched_again(
    made: Callable[[], cache.Cache], calls: Path, tmp_path: Path
) -> None:
    first = made()
    image = first.image(NAME, never)
    released(first)
    spoilt(image.path)
    assert Path(made().image(NAME, never).path).read_bytes() == (tmp_path / "good.sif").read_bytes()
    assert len(calls.read_text("utf-8").splitlines()) == 2


def test_a_damaged_image_that_others_use_is_this_nodes_fault(
    made: Callable[[], cache.Cache],
) -> None:
    user = made()
    spoilt(user.image(NAME, never).path)
    error = refused(made())
    assert error.code is Code.CONTAINER_FAILED
    assert error.transient


def test_a_tag_is_not_held_against_anything(made: Callable[[], cache.Cache], calls: Path) -> None:
    name = f"{REGISTRY}analysis:v1"
    spoilt(made().image(name, never).path)
    made().image(name, never)
    assert calls.read_text("utf-8").splitlines() == [name]


def test_what_a_killed_fetch_left_is_removed_unless_it_goes_on(
    made: Callable[[], cache.Cache], tmp_path: Path
) -> None:
    made().image(NAME, never)
    images = tmp_path / "cache/images"
    for name in ("dead", "alive"):
        (images / f"{name}.new/build-temp/rootfs").mkdir(parents=True)
        (images / f"{name}.new/build-temp/rootfs").chmod(0o500)
    with (tmp_path / "cache/locks/alive").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cache.evict(kept(tmp_path / "cache")) == []
    assert [path.stem for path in images.glob("*.new")] == ["alive"]


def test_pilots_that_come_and_go_never_lose_an_image_that_they_use(
    made: Callable[[], cache.Cache], tmp_path: Path
) -> None:
    """The cache has room for one image, and eight pilots want three."""
    lost: list[object] = []

    def pilots(nr: int) -> None:
        for turn in range(6):
            pilot = made()
            try:
                image = pilot.image(f"{REGISTRY}image-{(nr + turn) % 3}", never)
                cache.evict(kept(tmp_path / "cache", most_bytes=4200))
                if not Path(image.path).exists():
                    lost.append(image)
            except JobError as error:
                lost.append(error)
            released(pilot)

    threads = [threading.Thread(target=pilots, args=(nr,)) for nr in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert lost == []
    assert set(files(tmp_path)) <= {".sif"}


def test_a_file_of_the_site_has_the_digest_that_its_job_names(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "root").mkdir(parents=True)
    data = sifs.pieces([sifs.descriptor(4096, 128)], SUPERBLOCK)
    (images / "x.sif").write_bytes(data)
    setup = ContainerSetup(directory=str(tmp_path), user="somebody", images=(str(images),))
    pilot, digest = cache.Cache(setup), hashlib.sha256(data).hexdigest()
    assert pilot.image(f"{images}/x.sif@sha256:{digest}", never).path == f"{images}/x.sif"
    wrong = refused(pilot, f"{images}/x.sif@sha256:{'0' * 64}")
    assert (wrong.code, wrong.transient) == (Code.IMAGE_UNUSABLE, False)
    assert digest in str(wrong)
    (images / "x.sif").write_bytes(data + b"more")
    assert refused(pilot, f"{images}/x.sif@sha256:{digest}").code is Code.IMAGE_UNUSABLE
    assert "no digest" in str(refused(pilot, f"{images}/root@sha256:{digest}"))
