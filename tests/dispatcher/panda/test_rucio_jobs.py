"""Jobs with data in Rucio for pilots whose copytool is `rucio`, at a site that a site file
describes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from secrets import token_hex

import pytest
import yaml

from ailurus.protocol import panda
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import InputFile, OutputFile
from dispatcher.panda import queue_data
from dispatcher.panda.door import PandaSettings
from dispatcher.ports import Contents, KnownFile, NewFile
from tests.dispatcher.panda.conftest import Dispatcher
from tests.rig.catalogue import InMemory
from tests.rig.waiting import until

SITE = {
    "schema": 1,
    "site": "example",
    "storage": {
        "rse": "EXAMPLE_DISK",
        "protocols": {"read_lan": ["root", "davs"], "read_wan": ["davs"], "write_lan": ["davs"]},
        "allow": ["root://door.example:1094//store/"],
        "http_allow": ["davs://door.example/store/"],
        "roots": ["/data"],
    },
    "slots": {
        "m8": {"queue": "q", "cores": 8, "memory": "16GiB", "disk": "160GiB", "walltime": "2d"}
    },
}
CALIBRATION = KnownFile(name="cal:c.1", size=7, adler32="0000000a", guid="0" * 32)
RAW = tuple(KnownFile(name=f"raw:r.{nr}", size=nr, adler32=f"{nr:08x}") for nr in (1, 2))
INPUTS = (
    InputFile(name="calib", url="rucio://cal:c.1"),
    InputFile(name="raw", url="rucio://raw:all"),
    InputFile(name="own", url="file:///data/own"),
)
HITS = OutputFile(name="hits", scope="user.alice", dataset="user.alice:all", lifetime_s=60)
BARE = OutputFile(name="bare", scope="user.alice", optional=True)
SEEN = OutputFile(name="seen")
KEPT = OutputFile(name="kept", url="file:///kept")


@pytest.fixture
def site(some_keys, tmp_path):
    """A dispatcher with a catalogue, and the site file of the queue `q`."""
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "example.yaml").write_text(yaml.safe_dump(SITE))
    catalogue = InMemory()
    catalogue.before = {
        "cal:c.1": Contents(kind="file", open=False, files=(CALIBRATION,)),
        "raw:all": Contents(kind="dataset", open=False, files=RAW),
    }
    settings = PandaSettings(folder=tmp_path / "sites", storage="/logs")
    made = Dispatcher(tmp_path, some_keys, settings, catalogue=catalogue)
    yield made
    made.close()


def lists(job, *names: str) -> list[list[str]]:
    return [job[name].split(",") for name in names]


def names(job, *files: OutputFile) -> list[str]:
    mark = panda.read_job(job).mark
    assert mark
    key = job["PandaID"], job["attemptNr"]
    return [panda.lfn_of(*key, file, mark) for file in files]


def finished(site, job, *listed: str, **more: object) -> None:
    facts = {"fsize": 7, "adler32": "0000abcd", "surl": "root://door.example:1094//store/x"}
    report = json.dumps({name: {**facts, **more} for name in listed})
    assert site.update(job, "finished", xml=report) in (None, "NULL")


def registered(site, job_id: int, name: str) -> NewFile:
    """What the catalogue was told of a job's only file."""

    def done() -> bool:
        site.run(asyncio.sleep(0))
        (file,) = site.detail(job_id).files
        return file.registration == "done"

    until(done, 10, "it is registered")
    return site.catalogue.files[f"user.alice:{name}"]


def test_queue_and_storage_are_what_the_site_file_says(site):
    told = site.raw("GET", "/cache/schedconfig/q.all.json").json
    assert told["copytools"] == {"rucio": {}, "mv": {}}
    assert {key: told["acopytools"][key] for key in ("pr", "pw", "pl")} == {
        "pr": ["rucio"],
        "pw": ["rucio"],
        "pl": ["mv"],
    }
    assert told["acopytools_schemas"] == {"pr": {"rucio": ["root", "davs"]}}
    assert told["astorages"]["pw"] == ["EXAMPLE_DISK"]
    assert told["astorages"]["pl"] == ["AILURUS_DISK"]
    sizes = [told[key] for key in ("corecount", "maxrss", "maxwdir", "maxtime")]
    assert sizes == [8, 16 * 1024, 160 * 1024, 2 * 86_400]
    storage = site.raw("GET", "/cache/ddmendpoints.json").json["EXAMPLE_DISK"]
    assert (storage["name"], storage["state"]) == ("EXAMPLE_DISK", "ACTIVE")
    places = {
        activity: [(one["endpoint"], one["path"]) for one in some]
        for activity, some in storage["arprotocols"].items()
    }
    root, davs = ("root://door.example:1094", "//store/"), ("davs://door.example", "/store/")
    assert places == {
        "read_lan": [root, davs],
        "read_wan": [davs],
        "write_lan": [davs],
        "write_wan": [],
    }


def test_a_queue_of_no_site_file_is_described_as_ever(site):
    told = site.raw("GET", "/cache/schedconfig/other.all.json").json
    assert told["copytools"] == {"mv": {}}
    assert told["astorages"]["pw"] == ["AILURUS_DISK"]


def test_the_operators_own_description_comes_before_the_site_file(site, tmp_path):
    (tmp_path / "sites" / "q.json").write_text(json.dumps({"corecount": 4}))
    told = site.raw("GET", "/cache/schedconfig/q.all.json").json
    assert (told["corecount"], told["copytools"]) == (4, {"rucio": {}, "mv": {}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "x.yaml"),
        ("slots: 5", "x.yaml: slots"),
        ("storage: {rse: 5}", "x.yaml: storage.rse"),
        ("slots: {s: {memory: much}}", "x.yaml: slots.s"),
        ("[]", "x.yaml"),
    ],
)
def test_a_site_file_that_cannot_be_used_is_named(tmp_path: Path, text, says):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(AilurusError) as raised:
        queue_data.check(tmp_path)
    assert raised.value.field.startswith(says)


def test_a_site_file_that_went_bad_hides_no_other(site, tmp_path):
    (tmp_path / "sites" / "a.yaml").write_text("slots: 5")
    told = site.raw("GET", "/cache/schedconfig/q.all.json").json
    assert told["copytools"] == {"rucio": {}, "mv": {}}
    assert "EXAMPLE_DISK" in site.raw("GET", "/cache/ddmendpoints.json").json
    # What it said of other queues is not known.
    assert site.raw("GET", "/cache/schedconfig/other.all.json").status == 503


def test_inputs_are_told_as_the_catalogue_knows_them(site, job):
    site.submit(job(inputs=INPUTS))
    got = site.get_job()
    assert lists(got, "inFiles", "scopeIn", "fsize") == [
        ["c.1", "r.1", "r.2"],
        ["cal", "raw", "raw"],
        ["7", "1", "2"],
    ]
    assert got["checksum"] == "ad:0000000a,ad:00000001,ad:00000002"
    assert lists(got, "GUID", "realDatasetsIn") == [["0" * 32, "", ""], ["", "raw:all", "raw:all"]]
    assert got["ddmEndPointIn"] == "EXAMPLE_DISK,EXAMPLE_DISK,EXAMPLE_DISK"
    staged = panda.unpacked(got["jobPars"])["panda"]["staged"]
    assert staged == {"calib": "c.1", "raw": ["r.1", "r.2"]}


def test_outputs_are_told_with_scope_data_set_and_storage(site, job):
    site.submit(job(outputs=(HITS, KEPT, SEEN, BARE)))
    got = site.get_job()
    hits, bare = names(got, HITS, BARE)
    assert got["outFiles"] == f"{hits},{bare},1.1.log.tgz"
    assert lists(got, "scopeOut", "ddmEndPointOut") == [
        ["user.alice", "user.alice"],
        ["EXAMPLE_DISK", "EXAMPLE_DISK", "AILURUS_DISK"],
    ]
    assert got["destinationDblock"].split(",")[0] == "user.alice:all"
    assert got["realDatasets"].split(",")[0] == "user.alice:all"
    assert got["allowNoOutput"] == bare
    assert panda.read_job(got).place == "file:///logs/"


def test_an_output_of_pilot_3_is_registered_once_where_the_queue_put_it(site, job):
    (job_id,) = site.submit(job(outputs=(HITS,)))
    got = site.get_job()
    (hits,) = names(got, HITS)
    finished(site, got, hits)
    assert registered(site, job_id, hits).rse == "EXAMPLE_DISK"
    assert site.update(got, "finished") == "alreadydone"
    assert site.catalogue.told == [f"user.alice:{hits}"]
    assert site.catalogue.datasets == {"user.alice:all": [f"user.alice:{hits}"]}


def test_the_storage_that_a_pilot_names_itself_is_the_one(site, job):
    (job_id,) = site.submit(job(outputs=(HITS,)))
    got = site.get_job()
    (hits,) = names(got, HITS)
    finished(site, got, hits, endpoint="OTHER_DISK")
    assert registered(site, job_id, hits).rse == "OTHER_DISK"


def test_where_an_output_goes_outlives_the_dispatcher_and_the_queues_description(
    site, job, tmp_path
):
    (job_id,) = site.submit(job(outputs=(HITS,)))
    got = site.get_job()
    (hits,) = names(got, HITS)
    (tmp_path / "sites" / "example.yaml").unlink()
    site.restart()
    assert site.update(got, "running") in (None, "NULL")
    finished(site, got, hits)
    assert registered(site, job_id, hits).rse == "EXAMPLE_DISK"


def test_an_output_that_the_transform_left_counts_only_where_it_was_to_be_left(site, job):
    (job_id,) = site.submit(job(outputs=(SEEN,)))
    got = site.get_job()
    told = {"name": "seen", "url": "file:///etc/passwd", "size": 5, "adler32": "0000abcd"}
    site.update(got, "finished", metaData=json.dumps({"ailurus": [told]}))
    (file,) = site.detail(job_id).files
    assert file.url == "file:///logs/1.1.seen"


def test_while_the_catalogue_is_away_a_job_with_inputs_there_waits(site, job):
    (job_id,) = site.submit(job(inputs=INPUTS))
    site.catalogue.away = "connection refused"
    assert site.get_job()["StatusCode"] == 20
    assert site.state(job_id) == "activated"
    site.catalogue.away = ""
    assert site.get_job()["PandaID"] == job_id


def test_files_of_one_name_fail_the_job_that_no_pilot_could_stage(site, job):
    twice = (INPUTS[0], InputFile(name="again", url="rucio://cal:c.1"))
    bad, good = site.submit(job(inputs=twice), job("good"))
    assert site.get_job()["PandaID"] == good
    detail = site.detail(bad)
    assert detail.row.state == "failed"
    assert "files of the same name" in detail.row.diagnosis


def test_a_job_too_long_for_a_command_line_is_fetched_with_all_of_it(site, job):
    long = {f"V{nr}": token_hex(60_000) for nr in range(2)}
    site.submit(job(inputs=INPUTS, outputs=(HITS, SEEN), environment=long))
    got = site.get_job()
    flag, url = got["jobPars"].split()[2:]
    assert flag == "-u"
    spec, extra = panda.read_body(site.raw("GET", url.removeprefix("http://127.0.0.1:8080")).json)
    assert spec.outputs == (HITS, SEEN)
    assert extra.staged == {"calib": "c.1", "raw": ["r.1", "r.2"]}
    assert (extra.place, extra.rucio, bool(extra.mark)) == ("file:///logs/", True, True)
