"""`file:` transfers stay beneath the storage roots, whatever a URL says."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import JobError
from plugins.data.file import File


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "storage"
    made.mkdir()
    (tmp_path / "secret").write_text("canary")
    return made


@pytest.fixture
def transfer(root: Path) -> File:
    return File(roots=[str(root)])


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def nothing() -> None:
    """The check of a job that nobody stops."""


def code_of(act) -> Code:
    with pytest.raises(JobError) as caught:
        act()
    assert caught.value.message
    return caught.value.code


def test_a_copy_is_measured_on_the_way(root: Path, transfer: File, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (root / "f").write_bytes(data)
    with opened(tmp_path / "copy") as into:
        copied = transfer.get(Url.of_path(f"{root}/f"), into, nothing, md5=True)
    assert (tmp_path / "copy").read_bytes() == data
    assert copied.size == len(data)
    assert copied.adler32 == f"{zlib.adler32(data):08x}"
    assert copied.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    "url",
    [
        "file:///proc/self/environ",
        "file:///etc/passwd",
        "file://{root}/../secret",
        "file://{root}/a/../../secret",
        "file://{root}/link",
        "file://{root}/linked/secret",
        "file://{root}",
        "file://{root}-other/x",
        "file://host{root}/x",
        "file://",
        "file://{root}/a/%2e%2e/%2e./secret",
        "file://{root}/..%2Fsecret",
        "file://{root}/%00x",
        "file://{root}/x?y",
        "file://{root}/x#y",
        "file://user@localhost{root}/x",
        "http://{root}/x",
    ],
)
def test_f2_what_is_not_beneath_a_root_is_refused(
    root: Path, transfer: File, tmp_path: Path, url: str
) -> None:
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(tmp_path)
    url = Url.parse(url.format(root=root))
    with opened(tmp_path / "copy") as into:
        assert (
            code_of(lambda: transfer.get(url, into, nothing, md5=False)) is Code.STORAGE_FORBIDDEN
        )
        assert os.fstat(into).st_size == 0
    with opened(tmp_path / "source") as source:
        with pytest.raises(JobError):
            transfer.put(source, url, nothing)
        with suppress(JobError):  # a link may be deleted: it, and not what it leads to
            transfer.delete(url)
    assert (tmp_path / "secret").read_text() == "canary"


names = st.text(
    st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@given(names)
def test_f2_any_name_is_kept_as_it_is(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("names")
    transfer = File(roots=[str(root)])
    with opened(root / "source.of.all") as source:
        os.write(source, b"x")
        os.lseek(source, 0, os.SEEK_SET)
        if name != "source.of.all":
            transfer.put(source, Url.of_path(f"{root}/d/{name}"), nothing)
            assert [path.name for path in (root / "d").iterdir()] == [name]
            transfer.delete(Url.of_path(f"{root}/d/{name}"))
            assert list((root / "d").iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_only_regular_files_are_read(root: Path, transfer: File, tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(root / "x")
    else:
        (root / "x").mkdir()
    with opened(tmp_path / "copy") as into:
        act = lambda: transfer.get(Url.of_path(f"{root}/x"), into, nothing, md5=False)  # noqa: E731
        assert code_of(act) is Code.STORAGE_FORBIDDEN


def test_f5_nothing_is_overwritten(root: Path, transfer: File, tmp_path: Path) -> None:
    (root / "taken").write_text("first")
    with opened(tmp_path / "source") as source:
        act = lambda: transfer.put(source, Url.of_path(f"{root}/taken"), nothing)  # noqa: E731
        assert code_of(act) is Code.STAGE_OUT_FAILED
    assert (root / "taken").read_text() == "first"
    assert [path.name for path in root.iterdir()] == ["taken"]


def test_f5_of_two_writers_at_once_one_wins_whole(root: Path, tmp_path: Path) -> None:
    outcomes: list[str] = []

    def write(name: str) -> None:
        (tmp_path / name).write_text(name * 100_000)
        with opened(tmp_path / name, os.O_RDONLY) as source:
            try:
                File(roots=[str(root)]).put(source, Url.of_path(f"{root}/same"), nothing)
                outcomes.append(name)
            except JobError:
                pass

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert (root / "same").read_text() == outcomes[0] * 100_000
    assert [path.name for path in root.iterdir()] == ["same"]


def test_a_stopped_copy_leaves_nothing(root: Path, transfer: File, tmp_path: Path) -> None:
    def stop() -> None:
        raise JobError(Code.KILLED_BY_SERVER, "stop")

    (tmp_path / "source").write_bytes(b"x" * 10)
    with opened(tmp_path / "source") as source:
        act = lambda: transfer.put(source, Url.of_path(f"{root}/d/x"), stop)  # noqa: E731
        assert code_of(act) is Code.KILLED_BY_SERVER
    assert list((root / "d").iterdir()) == []


def test_a_root_may_be_reached_by_a_link_of_the_sites_own(tmp_path: Path, root: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    (root / "f").write_text("x")
    transfer = File(roots=[str(tmp_path / "alias")])
    for path in (tmp_path / "alias/f", root / "f"):
        with opened(tmp_path / "copy") as into:
            assert transfer.get(Url.of_path(str(path)), into, nothing, md5=False).size == 1


def test_a_missing_file_and_a_deleted_one(root: Path, transfer: File, tmp_path: Path) -> None:
    with opened(tmp_path / "copy") as into:
        act = lambda: transfer.get(Url.of_path(f"{root}/no/such"), into, nothing, md5=False)  # noqa: E731
        assert code_of(act) is Code.NO_SUCH_FILE
    transfer.delete(Url.of_path(f"{root}/no/such"))


@pytest.mark.field("W4")
@pytest.mark.parametrize("program", [True, False])
def test_a_program_stays_one_on_its_way_there_and_back(
    root: Path, transfer: File, tmp_path: Path, *, program: bool
) -> None:
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755 if program else 0o644)
    with opened(tmp_path / "copy") as into:
        transfer.get(Url.of_path(f"{root}/run.sh"), into, nothing, md5=False)
        assert os.access(tmp_path / "copy", os.X_OK) is program
        os.lseek(into, 0, os.SEEK_SET)
        transfer.put(into, Url.of_path(f"{root}/there"), nothing)
    assert os.access(root / "there", os.X_OK) is program


@pytest.mark.field("W4", "L7")
def test_a_path_is_found_as_its_bytes_whatever_they_are(tmp_path: Path) -> None:
    root = tmp_path / "мой storage"
    transfer = File(roots=[str(root)])
    strange = os.fsencode(root) + b"/50% caf\xe9"
    root.mkdir()
    Path(os.fsdecode(strange)).write_text("x", encoding="utf-8")
    url = Url.of_path(os.fsdecode(strange))
    assert url.text.endswith("/%D0%BC%D0%BE%D0%B9%20storage/50%25%20caf%E9")
    with opened(tmp_path / "copy") as into:
        assert transfer.get(Url.parse(url.text), into, nothing, md5=False).size == 1


def test_a_site_may_let_jobs_use_the_whole_disk(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with opened(tmp_path / "copy") as into:
        got = File(roots=["/"]).get(Url.of_path(f"{tmp_path}/f"), into, nothing, md5=False)
    assert got.size == 1


@pytest.mark.field("L3")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS])
def test_storage_without_hard_links_takes_outputs(
    root: Path, transfer: File, tmp_path: Path, monkeypatch, number: int
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "source").write_text("x")
    with opened(tmp_path / "source", os.O_RDONLY) as source:
        transfer.put(source, Url.of_path(f"{root}/d/out"), nothing)
        assert [path.name for path in (root / "d").iterdir()] == ["out"]
        os.lseek(source, 0, os.SEEK_SET)
        again = lambda: transfer.put(source, Url.of_path(f"{root}/d/out"), nothing)  # noqa: E731
        with pytest.raises(JobError, match="exists already"):
            again()
    assert [path.name for path in (root / "d").iterdir()] == ["out"]


@pytest.mark.field("A14", "A15")
@pytest.mark.parametrize("name", ["out", "hole only"])
def test_a_hole_stays_a_hole_in_storage(
    root: Path, transfer: File, tmp_path: Path, name: str
) -> None:
    """A hole of 3 GB as an output filled the storage with zeros."""
    size = 40 << 20
    with opened(tmp_path / name) as source:
        if name == "out":
            os.pwrite(source, b"begin", 0)
            os.pwrite(source, b"middle", 17 << 20)
        os.ftruncate(source, size)
        copied = transfer.put(source, Url.of_path(f"{root}/kept"), nothing)
    kept = root / "kept"
    assert copied.size == kept.stat().st_size == size
    assert kept.stat().st_blocks * 512 < 4 << 20
    assert kept.read_bytes() == (tmp_path / name).read_bytes()
    assert copied.adler32 == f"{zlib.adler32(kept.read_bytes()):08x}"


def listed(transfer: File, root: Path, end: str) -> dict[str, int | None]:
    return {one.name: one.size for one in transfer.listed(Url.of_path(f"{root}/{end}"), nothing)}


def test_a_directory_is_listed_with_all_beneath_it_and_a_glob_without(root, transfer):
    for name in ("a.root", "b.txt", "sub/c.root", ".hidden", "odd * name.root"):
        (root / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "d" / name).write_text(name)
    (root / "d/link").symlink_to(root.parent / "secret")
    (root / "d/up").symlink_to(root.parent)
    os.mkfifo(root / "d/pipe")
    sizes = {name: len(name) for name in ("a.root", "b.txt", ".hidden", "odd * name.root")}
    assert listed(transfer, root, "d/") == {**sizes, "sub/c.root": len("sub/c.root")}
    assert listed(transfer, root, "d/*.root") == {"a.root": 6, "odd * name.root": 15}
    one = transfer.listed(Url.parse(f"file://{root}/d/odd%20%2A*"), nothing)
    assert [file.name for file in one] == ["odd * name.root"]
    assert one[0].url.endswith("/d/odd%20*%20name.root")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("no/", Code.NO_SUCH_FILE),
        ("up/", Code.STORAGE_FORBIDDEN),
        ("up/*", Code.STORAGE_FORBIDDEN),
        ("../", Code.STORAGE_FORBIDDEN),
    ],
)
def test_nothing_outside_of_the_roots_is_listed(root, transfer, end, code):
    (root / "up").symlink_to(root.parent)
    assert code_of(lambda: listed(transfer, root, end)) is code


def test_a_directory_that_is_not_there_is_named_as_the_job_names_it(root, transfer):
    with pytest.raises(JobError, match=r"/no/? does not exist \("):
        listed(transfer, root, "no/")


def test_a_list_has_an_end(root, transfer, monkeypatch):
    monkeypatch.setattr("plugins.data.file.MOST_FOUND", 3)
    for nr in range(4):
        (root / str(nr)).touch()
    assert code_of(lambda: listed(transfer, root, "")) is Code.INPUTS_TOO_LARGE


def test_what_is_left_of_an_attempts_tree_goes_with_its_last_file(root, transfer):
    for name in ("out/5.1.r/sub/a", "out/5.1.r/b", "out/plain/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, left in (
        ("out/5.1.r/sub/a", ["5.1.r", "5.1.r/b", "plain", "plain/c"]),
        ("out/5.1.r/b", ["plain", "plain/c"]),
        ("out/5.1.r/b", ["plain", "plain/c"]),
        ("out/plain/c", ["plain"]),
    ):
        transfer.delete(Url.of_path(f"{root}/{name}"))
        found = [str(path.relative_to(root / "out")) for path in (root / "out").rglob("*")]
        assert sorted(found) == left


def test_no_transfer_is_taken_for_a_mover() -> None:
    """Rucio's mover tells them apart by that."""
    assert not hasattr(File(), "expand")


def test_long_names_that_begin_alike_are_written_at_once(root: Path, transfer: File) -> None:
    """Each has a part of its own, or one output would find another's in its place."""
    (root / "output").write_bytes(b"result")
    begin = "12.1." + "n" * 249
    inside = threading.Barrier(3, timeout=20)

    def put(end: str) -> None:
        def check() -> None:
            inside.wait()

        with opened(root / "output", os.O_RDONLY) as source:
            transfer.put(source, Url.of_path(f"{root}/{begin}{end}"), check)

    threads = [threading.Thread(target=put, args=(end,)) for end in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name[-1] for path in root.glob("12.1.*")) == ["a", "b", "c"]
    transfer.delete(Url.of_path(f"{root}/{begin}a"))
    assert len(list(root.iterdir())) == 3
