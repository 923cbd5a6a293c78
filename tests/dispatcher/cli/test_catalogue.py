"""`dispatcher catalogue`: what a catalogue knows, as people and scripts read it."""

from __future__ import annotations

import json

import pytest

from dispatcher import cli
from dispatcher.catalogue import messages
from dispatcher.catalogue.link import Link
from dispatcher.ports import Fault, NewFile
from tests.rig.catalogue import InMemory


@pytest.fixture
def catalogue(monkeypatch):
    known = InMemory()
    files = [
        NewFile(
            key=nr, scope="user.alice", name=f"hist.{nr}", rse="ROOT", size=7, adler32="0bc3024a",
            guid=f"{nr}", dataset="user.alice:hists",
        )
        for nr in range(3)
    ]  # fmt: skip
    assert not messages.answer(known, messages.Register(files=tuple(files))).faults

    async def ask(self, request):
        return await known.ask(request)

    monkeypatch.setattr(Link, "ask", ask)
    return known


@pytest.fixture
def described(tmp_path, capsys):
    file = tmp_path / "catalogue.yaml"
    file.write_text("kind: rucio\noptions: {config: /x}\nscopes: {user.alice: [alice]}\n")

    def run(*words):
        code = cli.main(["catalogue", str(file), *words])
        answer = capsys.readouterr()
        return code, answer.out, answer.err

    return run


def test_files_storages_and_rules_of_a_data_set_are_shown(catalogue, described):
    code, out, _ = described("user.alice:hists")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "user.alice:hists: dataset, open, files: 3"
    assert lines[2].split("\t") == ["user.alice:hist.0", "7", "0bc3024a", "ROOT"]
    assert lines[-1].split("\t")[1:5] == ["ROOT", "OK", "3", "0"]


def test_a_rule_is_made_first_and_only_once(catalogue, described):
    for _ in range(2):
        code, out, _ = described("user.alice:hists", "--rule", "tier=2", "--lifetime", "30d")
        assert code == 0
    assert out.count("tier=2") == 2  # its id in this catalogue, and where
    catalogue.close(["user.alice:hists"])
    _, out, _ = described("user.alice:hists", "--json")
    answer = json.loads(out)
    assert answer["schema"] == "ailurus.v1.Description"
    assert not answer["contents"]["open"]
    assert answer["replicas"]["user.alice:hist.2"] == ["ROOT"]
    assert [rule["state"] for rule in answer["rules"]] == ["OK", "OK"]


def test_a_file_is_neither_open_nor_closed(catalogue, described):
    code, out, _ = described("user.alice:hist.1")
    assert (code, out.splitlines()[0]) == (0, "user.alice:hist.1: file, files: 1")


def test_a_long_list_is_cut_and_says_so(catalogue, described, monkeypatch):
    monkeypatch.setattr(messages, "LISTED", 2)
    _, out, _ = described("user.alice:hists")
    assert "user.alice:hist.2" not in out
    assert "… and 1 more" in out


def test_what_is_unknown_refused_or_away_is_said_with_its_exit_code(catalogue, described):
    code, _, err = described("user.alice:nothing")
    assert (code, "knows nothing called user.alice:nothing" in err) == (66, True)
    catalogue.refuse["user.alice:hists"] = Fault(key=0, reason="not yours", remedy="ask")
    code, _, err = described("user.alice:hists")
    assert (code, "not yours" in err, "ask" in err) == (65, True, True)
    catalogue.away = "Rucio cannot be reached"
    code, _, err = described("user.alice:hists")
    assert (code, "Rucio cannot be reached" in err) == (69, True)


def test_a_word_that_is_no_identifier_is_not_asked_for(described):
    code, _, err = described("hists")
    assert (code, "write scope:name" in err) == (78, True)
