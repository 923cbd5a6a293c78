"""A directory as a catalogue, in which others may write: nothing outside of it is read or
written."""

from __future__ import annotations

import json
import os

import pytest
from msgspec.structs import replace

from dispatcher.ports import NewFile, NotDone
from plugins.catalogue.local import Local, LocalOptions

OUT = ["a:/secret", "a:/", "a:x//y", "a:x/", "a:../x", "..:x", ".rules:x", "a", "a:x/../../y"]


@pytest.fixture
def made(tmp_path):
    storages = {"TAPE": str(tmp_path / "tape"), "DISK": str(tmp_path / "disk")}
    return Local(LocalOptions(directory=str(tmp_path / "catalogue"), storages=storages))


def lie(tmp_path, name: str, at: str = "tape") -> None:
    path = tmp_path / at / "a" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"raw")


def new(name: str, dataset: str = "") -> NewFile:
    return NewFile(
        key=0, scope="a", name=name, rse="DISK", size=3, adler32="0" * 8, guid="", dataset=dataset
    )


def test_a_file_is_staged_kept_and_let_go_with_our_copy(made, tmp_path):
    lie(tmp_path, "sub/f")
    lie(tmp_path, "g", at="disk")
    assert made.staged(["a:sub/f"], "DISK") == {"a:sub/f": f"file://{tmp_path}/disk/a/sub/f"}
    names = ["a:sub/f", "a:g"]
    for _ in range(2):
        assert made.stage(names, "DISK") == []
    assert set(made.staged(names, "DISK")) == set(names)
    assert [one.state for one in made.rules_on("a:sub/f")] == ["OK"]
    for _ in range(2):
        assert made.let_go(names, "DISK") == []
    assert not (tmp_path / "disk/a/sub/f").exists()
    assert (tmp_path / "disk/a/g").read_bytes() == b"raw"
    assert (tmp_path / "tape/a/sub/f").exists()
    assert made.rules_on("a:sub/f") == []


@pytest.mark.parametrize("name", OUT)
def test_no_name_leads_out_of_it(made, tmp_path, name):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret.json").write_text('{"files": []}')
    (fault,) = made.stage([name], "DISK")
    assert fault.remedy
    for act in (
        lambda: made.listing(name, "", 10),
        lambda: made.staged([name], "DISK"),
        lambda: made.add_rule(name, "DISK", None),
        lambda: made.rules_on(name),
    ):
        with pytest.raises(NotDone):
            act()
    told = made.attach([new("f", dataset=name)]), made.close([name]), made.let_go([name], "DISK")
    for (fault,) in told:
        assert fault.remedy
    assert sorted(one.name for one in tmp_path.iterdir()) == ["secret", "secret.json"]


def test_links_are_not_followed(made, tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    lie(tmp_path, "f")
    (tmp_path / "tape/a/link").symlink_to(tmp_path / "secret")
    (tmp_path / "tape/a/sub").symlink_to(tmp_path)
    (tmp_path / "disk").mkdir()
    names = ["a:link", "a:sub/secret"]
    assert made.staged(names, "DISK") == {}
    (tmp_path / "disk/a").symlink_to(tmp_path / "elsewhere")
    assert made.staged(["a:f"], "DISK") == {}
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (tmp_path / "catalogue/a").mkdir(parents=True)
    (tmp_path / "catalogue/a/raw.json").symlink_to(tmp_path / "secret")
    with pytest.raises(NotDone):
        made.listing("a:raw", "", 10)


def test_a_manifest_that_is_half_written_or_a_fifo_is_a_fault_and_nobody_waits(made, tmp_path):
    folder = tmp_path / "catalogue/a"
    folder.mkdir(parents=True)
    (folder / "half.json").write_text('{"open": true, "files": [{"na')
    os.mkfifo(folder / "fifo.json")
    for name in ("half", "fifo"):
        with pytest.raises(NotDone) as raised:
            made.listing(f"a:{name}", "", 10)
        assert f"{name}.json" in raised.value.fault.reason


def test_what_is_registered_is_in_its_data_set_until_that_is_closed(made, tmp_path):
    files = [new("f", "a:set"), new("g", "a:set")]
    assert made.register(files) == made.attach(files) == []
    assert made.attach(files) == []
    found = made.listing("a:set", "", 10)
    assert ([one.name for one in found.files], found.open) == (["a:f", "a:g"], True)
    made.close(["a:set"])
    assert json.loads((tmp_path / "catalogue/a/set.json").read_text())["open"] is False


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["a:" + "x" * 250], []),
        (["a:s", "a:s.json/t"], [1]),
        (["a:s.json/t", "a:s"], [1]),
        (["b:t", "a:u"], [0]),
    ],
)
def test_no_name_of_a_data_set_stands_in_the_way_of_others(made, tmp_path, names, refused):
    """As if the catalogue were away: nobody's outputs were registered any more."""
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue/b").symlink_to(tmp_path)
    files = [new(f"f{nr}", name) for nr, name in enumerate([*names, "a:good"])]
    faults = made.attach([replace(file, key=nr) for nr, file in enumerate(files)])
    assert [(fault.key, fault.transient) for fault in faults] == [(nr, False) for nr in refused]
    assert all(fault.remedy for fault in faults)
    assert made.listing("a:good", "", 10).files[0].name == f"a:f{len(names)}"
    assert made.stage(["b:f", "a:f"], "DISK") == []
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/b").symlink_to(tmp_path)
    lie(tmp_path, "f")
    assert set(made.staged(["b:f", "a:f"], "DISK")) == {"a:f"}


def test_a_copy_on_its_way_takes_no_other_files_name(made, tmp_path):
    lie(tmp_path, "f")
    lie(tmp_path, "f.part", at="disk")
    made.stage(["a:f"], "DISK")
    assert set(made.staged(["a:f"], "DISK")) == {"a:f"}
    assert (tmp_path / "disk/a/f.part").read_bytes() == b"raw"
