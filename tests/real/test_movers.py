"""Each mover keeps the promises of its port, at real services."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ailurus.protocol.errors import Code
from pilot.ports import JobError, Moved, NotMoved, Progress, ToGet, ToPut
from plugins import load
from plugins.data.moving import system_module

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(60)]
STALL_S = 3
LIBRARIES = {"gfal2": "gfal2", "s3": "botocore", "xrootd": "XRootD.client"}
NEW = iter(range(10**6))


class Storage(NamedTuple):
    mover: Any
    base: str
    """A directory of this test alone."""


def made(name: str, options: dict[str, Any]) -> Any:
    kind = load("mover", name)
    return kind(msgspec.convert({"stall": STALL_S, **options}, kind.Options))


@pytest.fixture(params=["gfal2", "gfal2 of another Python", "s3", "xrootd"])
def storage(request, tmp_path) -> Storage:
    """A directory at a real storage, and the mover that reaches it."""
    name, _, another = request.param.partition(" ")
    try:
        system_module(LIBRARIES[name])
    except ImportError:
        pytest.skip(f"no {LIBRARIES[name]} for this Python: its package, or the extra {name}")
    own = f"t{os.getpid()}-{next(NEW)}"
    if name == "s3":
        facts = request.getfixturevalue("ceph").facts
        keys = tmp_path / "keys"
        keys.write_text(
            f"[default]\naws_access_key_id={facts['access_key']}\n"
            f"aws_secret_access_key={facts['secret_key']}\n"
        )
        keys.chmod(0o600)
        mover = made(name, {"endpoint": facts["url"], "keys_file": str(keys)})
        return Storage(mover, f"s3://{facts['bucket']}/{own}")
    facts = request.getfixturevalue("xrootd").facts
    more = {"python": "/usr/bin/python3"} if another else {}
    mover = made(name, {"ca": facts["ca_file"], "ca_dir": facts["ca_dir"], **more})
    base = facts["root" if name == "xrootd" else "davs"]
    return Storage(mover, f"{base}/{own}")


def put(storage: Storage, path: Path, name: str) -> Moved | NotMoved:
    told: list[Any] = []
    file = ToPut(key=1, url=f"{storage.base}/{name}", path=str(path), size=path.stat().st_size)
    storage.mover.put([file], told.append)
    (end,) = (news for news in told if not isinstance(news, Progress))
    return end


def get(storage: Storage, name: str, path: Path, **more: Any) -> Moved | NotMoved:
    told: list[Any] = []
    url = f"{storage.base}/{name}"
    storage.mover.get([ToGet(key=1, url=url, path=str(path), **more)], told.append)
    (end,) = (news for news in told if not isinstance(news, Progress))
    assert isinstance(told[0], Progress)
    return end


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(100_000))
    return path


def adler32(path: Path) -> str:
    return f"{zlib.adler32(path.read_bytes()):08x}"


def test_a_file_comes_back_as_it_went_with_its_checksums(storage, data, tmp_path):
    sent = put(storage, data, "a/b%20c/f")
    got = get(storage, "a/b%20c/f", tmp_path / "got", md5="0" * 32)
    assert (sent.size, sent.adler32) == (100_000, adler32(data))
    assert (got.size, got.adler32) == (sent.size, sent.adler32)
    assert got.md5 is not None
    assert (tmp_path / "got").read_bytes() == data.read_bytes()


def test_an_empty_file_is_a_file(storage, tmp_path):
    (tmp_path / "empty").touch()
    assert put(storage, tmp_path / "empty", "e").adler32 == "00000001"
    assert get(storage, "e", tmp_path / "got").size == 0


def test_nothing_is_overwritten_and_the_same_again_is_no_error(storage, data, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    put(storage, data, "f")
    refused = put(storage, other, "f")
    assert isinstance(refused, NotMoved)
    assert (refused.code, refused.transient) == (Code.STAGE_OUT_FAILED, False)
    assert isinstance(put(storage, data, "f"), Moved)
    assert get(storage, "f", tmp_path / "got").adler32 == adler32(data)


def test_what_is_missing_is_told_and_nothing_is_left(storage, tmp_path):
    end = get(storage, "nope", tmp_path / "got")
    assert (end.code, end.transient) == (Code.NO_SUCH_FILE, False)
    assert not (tmp_path / "got").exists()


def test_one_missing_file_costs_no_other(storage, data, tmp_path):
    put(storage, data, "f")
    told: list[Any] = []
    files = [
        ToGet(key=key, url=f"{storage.base}/{name}", path=str(tmp_path / f"got{key}"))
        for key, name in enumerate(["f", "nope", "f"])
    ]
    storage.mover.get(files, told.append)
    ends = {news.key: type(news) for news in told if not isinstance(news, Progress)}
    assert ends == {0: Moved, 1: NotMoved, 2: Moved}


def test_a_directory_is_expanded_and_its_files_deleted(storage, data):
    for name in ("d/a", "d/e/b"):
        put(storage, data, name)
    found = storage.mover.expand(f"{storage.base}/d")
    assert {one.name: one.size for one in found} == {"a": 100_000, "e/b": 100_000}
    urls = [one.url for one in found]
    assert storage.mover.delete([*urls, f"{storage.base}/nope"]) == {}
    with pytest.raises(JobError) as caught:
        storage.mover.expand(urls[0])
    assert caught.value.code is Code.NO_SUCH_FILE
