"""What a pilot reads in its site file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ailurus.protocol.errors import AilurusError
from pilot import site as sites
from pilot.site import Limits, Site, SlotChoice, bounds_of


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (2000, 2000 << 20),
        ("2000", 2000 << 20),
        ("1K", 1024),
        ("7MB", 7 << 20),
        ("2GiB", 2 << 30),
        ("0", 0),
    ],
)
def test_a_plain_number_is_mb_in_every_limit(size, number):
    bounds = bounds_of(Limits(stdout=size, output=size, inputs=size))
    assert (bounds.stdout_bytes, bounds.output_bytes, bounds.inputs_bytes) == (number,) * 3


def test_limits_become_bytes_and_seconds():
    bounds = bounds_of(Limits(looping="2h", staging=90, grace="10", inputs="0"))
    assert (bounds.looping_s, bounds.staging_s, bounds.grace_s) == (7200.0, 90.0, 10.0)
    assert bounds.inputs_bytes == 0


@pytest.mark.parametrize("limits", [Limits(output="much"), Limits(looping="long")])
def test_a_limit_that_is_no_number_is_refused(limits):
    with pytest.raises(AilurusError):
        bounds_of(limits)


SLOTS = {"a": SlotChoice(queue="q"), "b": SlotChoice(queue="r"), "c": SlotChoice(queue="r")}


@pytest.mark.parametrize(
    ("name", "queue", "found"),
    [
        ("b", "q", SLOTS["b"]),
        ("", "q", SLOTS["a"]),
        ("", "r", SlotChoice()),
        ("", "x", SlotChoice()),
    ],
)
def test_a_slot_is_found_by_name_or_as_the_only_one_of_its_queue(name, queue, found):
    assert Site(slots=SLOTS).slot(name, queue) is found or found == SlotChoice()


def test_a_slot_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AilurusError) as error:
        Site(slots=SLOTS).slot("d", "q")
    assert error.value.remedy == "known: a, b, c"
    with pytest.raises(AilurusError) as error:
        Site().slot("d", "q")
    assert error.value.remedy == "known: none"


def test_what_the_slot_says_comes_before_what_the_machine_shows():
    assert sites.megabytes("2GB", 7) == 2048
    assert sites.megabytes(None, 7) == 7


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_site_file_is_read_and_what_a_pilot_does_not_know_is_ignored(tmp_path, suffix):
    path = tmp_path / f"site.{suffix}"
    text = {"site": "S", "storage": {"roots": ["/d"]}, "batch": {"kind": "slurm"}}
    path.write_bytes(json.dumps(text).encode())
    site = sites.read(path)
    assert (site.site, site.storage.roots) == ("S", ("/d",))


def test_only_a_yaml_file_has_the_users_home_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    storage = {"roots": ["~/d"], "default_output": "file://~/d"}
    for suffix in ("yaml", "json"):
        (tmp_path / f"s.{suffix}").write_bytes(json.dumps({"storage": storage}).encode())
    assert sites.read(tmp_path / "s.yaml").storage.roots == ("/home/u/d",)
    assert sites.read(tmp_path / "s.json").storage.roots == ("~/d",)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("s.yaml", b"storage: [", "cannot be read"),
        ("s.json", b"{", "cannot be read"),
        ("s.yaml", b"storage: 7\n", "storage"),
        ("s.yaml", b"slots: {a: {cores: many}}\n", "cores"),
    ],
)
def test_a_site_file_that_is_wrong_is_refused_with_its_name(tmp_path, name, text, why):
    path = tmp_path / name
    path.write_bytes(text)
    with pytest.raises(AilurusError, match=why) as error:
        sites.read(path)
    assert str(path) in str(error.value)


def test_a_site_file_that_is_not_there_is_refused_and_none_at_all_is_an_empty_one(tmp_path):
    with pytest.raises(AilurusError, match="cannot read the site file"):
        sites.read(tmp_path / "none.yaml")
    assert sites.read(None) == Site()


def test_a_pilot_by_hand_has_one_directory():
    assert sites.by_hand(None) == Site()
    storage = sites.by_hand(Path("/d/my data")).storage
    assert storage.roots == ("/d/my data",)
    assert storage.default_output == "file:///d/my%20data"


def test_roots_are_in_the_home_directory_of_somebody_who_has_one(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    assert sites.in_home(["/home/u/d", "/home/u", "/x"]) == [Path("/home/u/d")]
    monkeypatch.setenv("HOME", "/")
    assert sites.in_home(["/d"]) == []


def test_a_scheme_has_its_usual_plugin_unless_the_site_names_another():
    storage = sites.Storage(plugins={"davs": "gfal2"}, options={"own": {"a": 1}})
    assert [storage.plugin(one) for one in ("davs", "root", "https", "rucio", "x")] == [
        "gfal2", "xrootd", "http", "rucio", "x",
    ]  # fmt: skip
    assert storage.options_of("own") == {"a": 1}
    assert storage.options_of("roots") == {}


def test_a_file_has_time_by_its_size_and_never_more_than_the_site_gives_any():
    bounds = sites.bounds_of(sites.Limits(staging="1h"), sites.Storage(min_speed="1M"))
    assert bounds.time_s(100 << 20) == 400
    assert bounds.time_s(1 << 50) == bounds.time_s(None) == 3600


def test_no_job_may_see_a_credential_of_the_storage(tmp_path):
    storage = sites.Storage(roots=("/shared",), xrootd={"token_file": "/shared/token"})
    with pytest.raises(AilurusError, match="jobs could read /shared/token"):
        sites.keep_apart(sites.Site(storage=storage), tmp_path, ())
    sought = sites.Storage(roots=("/tmp",), options={"own": {"token_file": "wlcg-discovery"}})
    with pytest.raises(AilurusError, match="jobs could read /tmp/bt_u"):
        sites.keep_apart(sites.Site(storage=sought), tmp_path, ())
    fine = sites.Storage(roots=("/shared",), xrootd={"ca_file": "/shared/ca"})
    sites.keep_apart(sites.Site(storage=fine), tmp_path, ())


@pytest.mark.parametrize(
    ("pilot", "said"),
    [
        ({"agents": {"beat": 10}}, "a lease of 4 s is over before a second beat of 10 s"),
        ({"agents": {"beat": "1s", "lease": "1s"}}, "a lease of 1 s is over"),
        ({"agents": {"beat": 0}}, "cannot beat without a pause"),
        ({"gpus": {"share": 10**6}}, r"`int` <= 10 - at `\$.pilot.gpus.share`"),
        ({"gpus": {"share": -1}}, r"`int` >= 1 - at `\$.pilot.gpus.share`"),
    ],
)
def test_what_would_lose_every_node_or_share_no_gpu_is_refused(tmp_path, pilot, said):
    file = tmp_path / "site.json"
    file.write_text(json.dumps({"pilot": pilot}))
    with pytest.raises(AilurusError, match=said):
        sites.read(file)
