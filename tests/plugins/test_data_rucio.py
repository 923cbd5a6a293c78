"""What the mover of Rucio decides by a catalogue's answer; that it moves files, real ones show."""

from __future__ import annotations

import pytest

from ailurus.protocol.did import Did
from ailurus.protocol.errors import Code
from pilot.ports import Moved, NotMoved, ToGet
from plugins.data import rucio
from plugins.data.rucio import Replica, Rucio

OPTIONS = Rucio.Options(config="/etc/rucio.cfg", rse="HERE")


def pfn(rse: str, domain: str = "wan", priority: int = 1) -> dict[str, object]:
    return {"rse": rse, "domain": domain, "priority": priority}


def test_the_own_storage_comes_first_and_then_the_better_protocol():
    entry = {
        "pfns": {
            "davs://far/x": pfn("FAR"),
            "root://far/x": pfn("FAR"),
            "davs://here/x": pfn("HERE"),
            "root://here/x": pfn("HERE", "lan"),
            "srm://here/x": pfn("HERE", "lan"),
        }
    }
    assert [place.url for place in rucio._ranked(entry, OPTIONS)] == [
        "root://here/x",
        "davs://here/x",
        "root://far/x",
        "davs://far/x",
    ]


@pytest.mark.parametrize(
    ("size", "adler32", "good"),
    [(7, "0000abcd", True), (8, "0000abcd", False), (7, "1" * 8, False)],
)
def test_what_arrives_is_held_against_the_catalogue(size, adler32, good):
    file = ToGet(key=1, url="rucio://s:n", path="/x")
    wanted = rucio._Wanted(file, Did("s", "n"), [Replica("HERE", "root://h/x")], 7, "abcd")
    got = rucio._checked(Moved(key=1, size=size, adler32=adler32), wanted)
    assert isinstance(got, Moved) is good
    if isinstance(got, NotMoved):
        assert got.code is Code.GET_ADLER_MISMATCH
        assert "HERE" in got.message
