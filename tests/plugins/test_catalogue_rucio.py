"""What the catalogue of Rucio makes of answers that spoil one file: no other waits for it. That it
registers, a real Rucio shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any

import pytest
from rucio.common import exception

from dispatcher.catalogue.messages import (
    Faults,
    Register,
    Resolve,
    Resolved,
    answer,
    decode_answer,
    encode,
)
from dispatcher.ports import Contents, KnownFile, NewFile
from plugins.catalogue.rucio import Rucio, RucioOptions


class Server:
    """A client of a Rucio that takes everything."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], tuple[int, str]] = {}
        self.kinds = {"raw": "DATASET", "all": "CONTAINER", "calibration": "FILE"}
        self.attached: list[str] = []
        self.length = self.listed = self.counted = 0
        self.lies: dict[str, object] = {}

    def add_replicas(self, rse: str, files: Sequence[Mapping[str, Any]]) -> None:
        for one in files:
            self.files[one["scope"], one["name"]] = one["bytes"], one["adler32"]

    def get_metadata_bulk(self, dids: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
        for one in dids:
            size, adler32 = self.files[one["scope"], one["name"]]
            yield {**one, "bytes": size, "adler32": adler32}

    def get_did(self, scope: str, name: str, dynamic_depth: str = "") -> Mapping[str, Any]:
        if name not in self.kinds:
            raise exception.DataIdentifierNotFound(name)
        known: dict[str, Any] = {"scope": scope, "name": name, "type": self.kinds[name]}
        if dynamic_depth:
            self.counted += 1
            known["length"] = self.length
        return known if known["type"] == "FILE" else {**known, "open": True}

    def add_dataset(self, scope: str, name: str) -> None:
        self.kinds[name] = "DATASET"

    def attach_dids_to_dids(self, attachments: Sequence[Any], *, ignore_duplicate: bool) -> None:
        for one in attachments:
            self.attached += [f"{did['name']} to {one['name']}" for did in one["dids"]]

    def add_replication_rule(self, *_: object, **__: object) -> list[str]:
        return ["rule"]

    def bulk_list_files(self, dids: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
        for one in islice(repeat(dids[0]), self.length):
            self.listed += 1
            yield {"scope": one["scope"], "name": "x", "bytes": 1, "adler32": None, **self.lies}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def catalogue(server: Server) -> Rucio:
    made = Rucio(RucioOptions(config="/etc/rucio.cfg"))
    made.__dict__["_client"] = server
    return made


def new(key: int, dataset: str = "") -> NewFile:
    return NewFile(
        key=key, scope="user.ann", name=f"{key}.hits", rse="HERE", size=1, adler32="00000001",
        guid="0" * 32, dataset=dataset and f"user.ann:{dataset}", lifetime_s=None,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["calibration", "all"])
def test_what_is_no_data_set_spoils_the_files_for_it_alone(catalogue, server, kind):
    said = answer(catalogue, Register(files=(new(0, kind), new(1, "raw"), new(2), new(3, kind))))
    assert isinstance(said, Faults)
    assert {(one.key, one.transient) for one in said.faults} == {(0, False), (3, False)}
    assert all("no data set" in one.reason and one.remedy for one in said.faults)
    assert server.attached == ["1.hits to raw"]


def test_an_answer_that_the_client_cannot_read_spoils_its_files_alone_and_for_now(
    catalogue, server, monkeypatch
):
    def odd(scope: str, name: str) -> object:
        return None if name == "odd" else Server.get_did(server, scope, name)

    monkeypatch.setattr(server, "get_did", odd)
    said = answer(catalogue, Register(files=(new(0, "odd"), new(1, "raw"), new(2, "odd"))))
    assert isinstance(said, Faults)
    assert {(one.key, one.transient) for one in said.faults} == {(0, True), (2, True)}


def test_a_file_that_cannot_be_looked_at_is_tried_later(catalogue, server, monkeypatch):
    def refused(dids: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
        if any(one["name"] == "1.hits" for one in dids):
            raise exception.ServiceUnavailable
        return Server.get_metadata_bulk(server, dids)

    monkeypatch.setattr(server, "get_metadata_bulk", refused)
    said = answer(catalogue, Register(files=(new(0), new(1), new(2))))
    assert isinstance(said, Faults)
    assert [(one.key, one.transient) for one in said.faults] == [(1, True)]


def test_a_file_in_a_data_sets_place_is_not_closed_and_no_fault(catalogue):
    assert catalogue.close(["user.ann:calibration"]) == []


def test_of_a_data_set_with_more_files_than_are_asked_for_the_rest_is_counted_at_the_catalogue(
    catalogue, server
):
    server.length = 3_000_000
    found = catalogue.resolve("user.ann:all", 1000)
    assert (len(found.files), found.more, server.listed) == (1000, 2_999_000, 1001)


def test_of_a_data_set_that_is_listed_whole_nothing_is_counted(catalogue, server):
    server.length = 1000
    found = catalogue.resolve("user.ann:all", 1000)
    assert (len(found.files), found.more, server.counted) == (1000, 0, 0)


@pytest.mark.parametrize("number", [-1, 2**49 + 1, 2**70, "7", 1.5, True, [7]])
def test_a_number_that_none_can_be_is_taken_for_none(catalogue, server, number):
    """A store could not keep it, or add it up, and the task would stand still."""
    server.length, server.lies = 1, {"bytes": number, "events": number, "adler32": 7, "guid": 8}
    found = answer(catalogue, Resolve(did="user.ann:all"))
    assert decode_answer(encode(found)) == found
    (file,) = found.contents.files
    assert (file.size, file.events, file.adler32, file.guid) == (None, None, "7", "8")


def test_what_another_plugin_says_of_bytes_is_held_to_the_same():
    lie = KnownFile(name="s:x", size=2**62, adler32="")
    contents = Contents(kind="file", open=False, files=(lie,))
    with pytest.raises(ValueError, match="contents"):
        decode_answer(encode(Resolved(contents=contents)))


@pytest.mark.parametrize("number", [-5, 2**70, "many", None])
def test_a_count_of_files_that_none_can_be_is_at_least_what_was_seen(catalogue, server, number):
    server.length = 1001
    server.get_did = lambda *_, **__: {"type": "CONTAINER", "open": True, "length": number}
    assert catalogue.resolve("user.ann:all", 1000).more == 1
