"""Archives: what is packed comes out again, the same contents are the same bytes, and no archive
that somebody made gets anything outside its directory, or more than its share."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from pilot.files import unpack as subject
from pilot.files.archive import leads_within, pack
from pilot.files.unpack import unpack
from pilot.ports import JobError
from pilot.process.usage import ENTRY_BYTES
from pilot.workdir import Workdir
from tests.pilot.fakes import World

MOST = 10_000_000


def no_stop() -> None:
    """Nothing stops the attempt."""


@contextmanager
def job() -> Iterator[Workdir]:
    with tempfile.TemporaryDirectory() as folder:
        made = Workdir(Path(folder) / "1.1")
        made.make()
        yield made


@pytest.fixture
def work() -> Iterator[Workdir]:
    with job() as made:
        yield made


def packed(work: Workdir, directory: str = "r/", most: int = MOST) -> bytes:
    into = io.BytesIO()
    pack(directory, work, into, most, no_stop)
    return into.getvalue()


def unpacked(work: Workdir, data: bytes, most: int = MOST) -> int:
    (work.directory / "x.tgz").write_bytes(data)
    return unpack("x.tgz", "x", work, most, no_stop)


def contents(top: Path) -> dict[str, object]:
    """All beneath a directory, by name: bytes, where a link leads, None for a directory."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = ("->", str(path.readlink()))
        else:
            found[name] = (
                None if path.is_dir() else (path.read_bytes(), path.stat().st_mode & 0o100)
            )
    return found


SIGNS = st.characters(codec="utf-8", exclude_characters="/\0")
PARTS = st.text(SIGNS, min_size=1, max_size=6).filter(lambda text: text not in {".", ".."})
TREES = st.dictionaries(st.lists(PARTS, min_size=1, max_size=4).map(tuple), st.binary(max_size=900))


@settings(max_examples=40)
@given(tree=TREES, program=st.booleans())
def test_what_is_packed_comes_out_again_and_twice_the_same(tree, program):
    with job() as work:
        top = work.directory / "r"
        top.mkdir()
        for parts, data in tree.items():
            path = top.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
            path.chmod(0o700 if program else 0o600)
        data = packed(work)
        for path in top.rglob("*"):
            os.utime(path, (1, 1))
        assert packed(work) == data
        unpacked(work, data)
        assert contents(work.directory / "x") == contents(top)
        assert not (work.directory / "x.tgz").exists()


def test_links_that_stay_inside_are_kept_and_hard_links_are_files(work):
    top = work.directory / "r"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_text("a")
    (top / "sub/up").symlink_to("../a")
    (top / "later").symlink_to("sub/not-there")
    (top / "sub/b").hardlink_to(top / "a")
    unpacked(work, packed(work))
    assert contents(work.directory / "x") == contents(top)
    assert (work.directory / "x/sub/b").stat().st_nlink == 1


def test_an_empty_directory_is_an_archive_too(work):
    (work.directory / "r").mkdir()
    unpacked(work, packed(work))
    assert contents(work.directory / "x") == {}


@pytest.mark.parametrize(
    ("link", "target", "inside"),
    [
        ("a", "b", True),
        ("a", "./b/c", True),
        # `b` may be a link to above.
        ("a", "./b/../c", False),
        ("d/a", "../b/../c", False),
        ("d/a", "../b", True),
        ("d/a", "../../b", False),
        ("a", "..", False),
        ("a", "/etc", False),
        ("a", "b/../../c", False),
        ("a", "", False),
        ("a", "x" * 5000, False),
    ],
)
def test_a_link_leads_inside_whatever_others_do(link, target, inside):
    assert leads_within(link, target) is inside


def test_a_file_that_becomes_shorter_while_it_is_packed_is_no_output(work):
    (work.directory / "r").mkdir()
    file = work.directory / "r/a"
    file.write_bytes(b"x" * 200_000)
    calls = iter(range(100))

    def cut() -> None:
        if next(calls) == 4:
            os.truncate(file, 10)

    with pytest.raises(JobError) as raised:
        pack("r/", work, io.BytesIO(), MOST, cut)
    assert raised.value.code is Code.OUTPUT_UNSAFE


def test_more_than_the_bound_is_not_packed(work):
    (work.directory / "r").mkdir()
    (work.directory / "r/a").write_bytes(b"x" * 1001)
    assert packed(work, most=1001)
    with pytest.raises(JobError) as raised:
        packed(work, most=1000)
    assert raised.value.code is Code.OUTPUT_TOO_LARGE


# hostile archives ---------------------------------------------------------------------------------

Member = tuple[dict[str, Any], bytes]


def file(name: str, data: bytes = b"data") -> Member:
    return {"name": name, "size": len(data)}, data


def other(name: str, kind: bytes, link: str = "") -> Member:
    return {"name": name, "type": kind, "linkname": link}, b""


def made(*members: Member, zipped: bool = True, **fields: Any) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w:gz" if zipped else "w", **fields) as tar:
        for attributes, data in members:
            member = tarfile.TarInfo()
            for name, value in attributes.items():
                setattr(member, name, value)
            tar.addfile(member, io.BytesIO(data))
    return into.getvalue()


def refused(work: Workdir, data: bytes, most: int = MOST) -> JobError:
    before = set(work.path.parent.iterdir())
    with pytest.raises(JobError) as raised:
        unpacked(work, data, most)
    assert set(work.path.parent.iterdir()) == before
    assert {path.name for path in work.directory.iterdir()} <= {"x"}
    assert raised.value.transient is False
    return raised.value


@pytest.mark.parametrize(
    "members",
    [
        [file("../evil")],
        [file("/tmp/evil")],
        [file("a/../../evil")],
        [other("d", tarfile.SYMTYPE, "/tmp"), file("d/evil")],
        [other("d", tarfile.SYMTYPE, ".."), file("d/evil")],
        [other("d", tarfile.SYMTYPE, "sub/../.."), file("d/evil")],
        [other("d/up", tarfile.SYMTYPE, ".."), other("d/out", tarfile.SYMTYPE, "up/../../evil")],
        [other("d/up", tarfile.SYMTYPE, ".."), other("d/out", tarfile.SYMTYPE, "up/../etc")],
        [other("d", tarfile.SYMTYPE, "a"), other("d/b", tarfile.SYMTYPE, "c")],
        [other("h", tarfile.LNKTYPE, "/etc/passwd")],
        [other("h", tarfile.LNKTYPE, "../stdout")],
        [other("h", tarfile.LNKTYPE, "not-there")],
        [other("h", tarfile.LNKTYPE, ".")],
        [other("null", tarfile.CHRTYPE)],
        [other("disk", tarfile.BLKTYPE)],
        [other("pipe", tarfile.FIFOTYPE)],
        [file("a"), file("a")],
        [file("a"), file("a/b")],
        [other("a", tarfile.DIRTYPE), file("a")],
        [file("a"), other("a", tarfile.DIRTYPE)],
        [file(".")],
        [file("x" * 256)],
        [file("x/" * 600 + "x")],
        [other("s", tarfile.SYMTYPE, "x" * 2000)],
    ],
    ids=str,
)
def test_an_archive_that_leads_out_or_means_nothing_is_refused(work, members):
    assert refused(work, made(*members)).code is Code.STAGE_IN_FAILED


def test_modes_and_owners_of_an_archive_give_nobody_anything(work):
    attributes, data = file("setuid")
    unpacked(work, made(({**attributes, "mode": 0o6777, "uid": 12345}, data)))
    found = (work.directory / "x/setuid").stat()
    assert (found.st_mode & 0o7777, found.st_uid) == (0o700, os.geteuid())


def test_hard_links_and_plain_tar_are_understood(work):
    data = made(file("a"), other("sub/b", tarfile.LNKTYPE, "./a"), zipped=False)
    unpacked(work, data)
    assert (work.directory / "x/sub/b").read_bytes() == b"data"


def test_an_archive_takes_no_more_than_the_jobs_disk(work):
    data = made(file("zeros", bytes(1_000_000)))
    assert len(data) < 10_000
    assert refused(work, data, 900_000).code is Code.INPUTS_TOO_LARGE


def test_what_an_archive_takes_is_told(work):
    assert unpacked(work, made(file("a", bytes(1000)))) == 1000 + ENTRY_BYTES


def test_a_million_empty_files_take_disk_as_well(work, monkeypatch):
    data = made(*(file(f"f{nr}", b"") for nr in range(50)))
    assert refused(work, data, 40 * ENTRY_BYTES).code is Code.INPUTS_TOO_LARGE
    monkeypatch.setattr(subject, "MOST_ENTRIES", 49)
    with job() as another:
        assert refused(another, data).code is Code.INPUTS_TOO_LARGE


def pax_bomb() -> bytes:
    return made(file("a"), format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 1_000_000})


def long_name_bomb() -> bytes:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 50_000_000
    return gzip.compress(header.tobuf() + bytes(50_000_000), 9)


def many_globals() -> bytes:
    words = {f"k{nr}": "v" for nr in range(subject.MOST_GLOBALS + 1)}
    return made(file("a"), format=tarfile.PAX_FORMAT, pax_headers=words)


def nested_headers() -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 0
    return header.tobuf() * 100_000


def sparse_bomb() -> bytes:
    block = bytearray(tarfile.TarInfo("s").tobuf())
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[257:265] = b"ustar  \0"
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    extended = bytearray(b"00000000001\0" * 42 + b"\1" + bytes(7))
    return bytes(block) + bytes(extended) * 5000


@pytest.mark.parametrize(
    "bomb", [pax_bomb, long_name_bomb, many_globals, nested_headers, sparse_bomb]
)
def test_a_header_takes_no_memory_to_speak_of(work, bomb: Callable[[], bytes]):
    assert refused(work, bomb()).code is Code.STAGE_IN_FAILED


def test_an_archive_that_broke_off_is_refused_wherever_that_was():
    members = file("a", bytes(range(256)) * 8), file("b")
    plain, zipped = made(*members, zipped=False), made(*members)
    # Two headers, and contents of 2048 and of 4 bytes, in blocks of 512.
    broken = [plain[:end] for end in range(0, 3585, 128)]
    broken += [zipped[:end] for end in range(0, len(zipped), 16)]
    for data in broken:
        with job() as work:
            assert refused(work, data).code is Code.STAGE_IN_FAILED


def test_a_damaged_archive_is_refused(work):
    data = bytearray(made(file("a", os.urandom(5000))))
    data[2500] ^= 1
    assert "no whole" in refused(work, bytes(data)).message


@settings(max_examples=200)
@given(data=st.binary(max_size=2000), zipped=st.booleans(), at=st.integers(0, 3000))
def test_nonsense_in_an_archive_is_refused_or_stays_inside(data, zipped, at):
    whole = made(file("a", bytes(700)), other("l", tarfile.SYMTYPE, "a"), zipped=False)
    whole = whole[:at] + data + whole[at + len(data) :]
    with job() as work:
        with suppress(JobError):
            unpacked(work, gzip.compress(whole) if zipped else whole)
        assert {path.name for path in work.path.parent.iterdir()} == {"1.1"}
        assert {path.name for path in work.directory.iterdir()} <= {"x"}


def test_a_job_finds_its_archive_unpacked(tmp_path):
    world = World(tmp_path)
    work = Workdir(tmp_path / "1.1")
    work.make()
    world.storage.files["file:///s/calib-1.tgz"] = made(file("d/a"))
    one = InputFile(name="calib.tar.gz", url="file:///s/calib-1.tgz", unpack=True)
    world.kit.stage.stage_in(world.attempt(inputs=(one,)), work)
    assert contents(work.directory) == {"calib": None, "calib/d": None, "calib/d/a": (b"data", 0)}


def test_the_error_of_an_archive_names_its_input(tmp_path):
    world = World(tmp_path)
    work = Workdir(tmp_path / "1.1")
    work.make()
    world.storage.files["file:///s/x"] = b"no archive"
    one = InputFile(name="x", url="file:///s/x", unpack=True)
    with pytest.raises(JobError) as raised:
        world.kit.stage.stage_in(world.attempt(inputs=(one,)), work)
    assert raised.value.field == "inputs[0]"
