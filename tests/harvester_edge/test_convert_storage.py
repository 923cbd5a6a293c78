"""What CRIC says of a queue's storage becomes `storage`, or is in the report."""

from __future__ import annotations

import json

import pytest

from harvester_edge.convert import convert, read
from tests.harvester_edge.test_convert import lost, sites

DISK = {
    "name": "HERE_DATADISK",
    "id": 7,
    "state": "ACTIVE",
    "type": "DATADISK",
    "is_deterministic": True,
    "arprotocols": {
        "read_lan": [
            {"endpoint": "root://door.here.example:1094", "path": "//pool/rucio/", "flavour": "XROOT"},
            {"endpoint": "davs://door.here.example:443", "path": "/pool/rucio/", "flavour": "WEBDAV"},
            {"endpoint": "dcap://door.here.example:22125", "path": "/pool/rucio/"},
        ],
        "read_wan": [{"endpoint": "davs://door.here.example:443", "path": "/pool/rucio/"}],
        "write_lan": [
            {"endpoint": "davs://door.here.example:443", "path": "/pool/rucio/"},
            {"endpoint": "root://door.here.example:1094", "path": "//pool/rucio/"},
        ],
        "delete_lan": [{"endpoint": "davs://door.here.example:443", "path": "/pool/rucio/"}],
    },
    "rprotocols": {"7": {"settings": {"access_key": "A", "secret_key": "a secret"}}},
}  # fmt: skip
QUEUE = {
    "nickname": "Q",
    "panda_resource": "Q",
    "copytools": {"rucio": {"setup": "/cvmfs/x/setup.sh"}},
    "acopytools": {"pr": ["rucio", "xrdcp"], "pw": ["rucio"], "pl": ["lsm"]},
    "astorages": {"pr": ["HERE_DATADISK"], "pw": ["HERE_DATADISK", "THERE_DATADISK"], "pl": ["LOGS"]},
    "direct_access_lan": True,
    "direct_access_wan": False,
    "maxinputsize": 20_000,
    "use_pcache": False,
}  # fmt: skip
STORAGES = {"HERE_DATADISK": DISK}


def converted(tmp_path, queue=QUEUE, storages=STORAGES, **changed):
    files = {"queues": {"Q": {**queue, **changed}}}
    if storages:
        files["storages"] = storages
    return sites(tmp_path, **files)["Q"]


def test_a_queue_that_moves_files_by_rucio(tmp_path):
    one, site = converted(tmp_path)
    assert (site.storage.rse, site.storage.rucio) == (
        "HERE_DATADISK",
        {"config": "/etc/ailurus/rucio.cfg"},
    )
    protocols = site.storage.protocols
    assert (protocols.read_lan, protocols.read_wan) == (("root", "davs"), ("davs",))
    assert (protocols.write_lan, protocols.write_wan) == (("davs", "root"), ())
    assert site.storage.plugins == {}
    assert site.storage.direct_read
    assert site.limits.inputs == "20000M"
    assert {"storage.rucio.config", "storage.protocols.read_wan"} <= {*one.site["confirm"]}


def test_no_report_shows_a_password_in_an_address(tmp_path):
    one, _ = converted(tmp_path, use_pcache="http://user:SECRET@cache.example/?key=SECRET")
    assert "cache.example" in lost(one)["cric.use_pcache"] + str(one.lost)
    assert "SECRET" not in str(one.lost)


def test_what_is_not_carried_over_is_in_the_report(tmp_path):
    one, _ = converted(tmp_path)
    told = lost(one)
    assert told["cric.acopytools.pr"] == "rucio moves all files here"
    assert told["cric.acopytools.pl"] == "no plugin of ours is like it"
    assert "libraries lie beside the pilot" in told["cric.copytools.rucio"]
    assert "one storage of its own, HERE_DATADISK" in " ".join(told.values())
    assert told["cric.astorages.pl"] == "logs go to `storage.default_output`"
    assert "no plugin of ours" in told["storages.HERE_DATADISK.arprotocols.read_lan"]
    assert told["storages.HERE_DATADISK.arprotocols.delete_lan"] == "no such activity"
    assert "never copied" in told["storages.HERE_DATADISK.rprotocols"]
    assert "a secret" not in json.dumps([str(it) for it in one.lost])
    assert "direct: true" in told["cric.direct_access_lan"]


def test_gfal_moves_by_gfal2_what_another_plugin_usually_does(tmp_path):
    one, site = converted(tmp_path, acopytools={"default": ["gfalcopy"]}, copytools={})
    assert site.storage.plugins == {"davs": "gfal2", "root": "gfal2"}
    told = {it.to: it.key for it in one.carried}
    assert told["storage.plugins"] == "cric.acopytools.default"


def test_xrdcp_leaves_all_but_root_out(tmp_path):
    one, site = converted(tmp_path, acopytools={}, copytools={"xrdcp": {}})
    assert site.storage.protocols.write_lan == ("root",)
    assert site.storage.plugins == {}
    assert "xrdcp does not move files by it" in lost(one).values()


@pytest.mark.parametrize(
    "schemas",
    [
        {"pr": ["davs"], "default": ["root"]},
        {"pr": {"rucio": ["davs"]}, "pw": {"default": ["root"]}},
    ],
)
def test_a_tools_protocols_narrow_those_of_the_storage(tmp_path, schemas):
    one, site = converted(tmp_path, acopytools_schemas=schemas)
    protocols = site.storage.protocols
    assert (protocols.read_lan, protocols.write_lan) == (("davs",), ("root",))
    assert "cric.acopytools_schemas.pr leaves it out" in lost(one).values()


def test_without_data_of_storages_the_queues_own_protocols_count(tmp_path):
    told = {"pr": [["HERE", "root://door.here.example:1094", "/pool/"]], "tape": [["x"]]}
    one, site = converted(tmp_path, storages=None, aprotocols=told)
    assert site.storage.rse == "HERE_DATADISK"
    assert site.storage.protocols.read_lan == ("root",)
    assert "data of storages" in " ".join(lost(one).values())
    assert lost(one)["cric.aprotocols.tape"] == "no such activity"


def test_a_storage_that_does_not_say_where_files_go_is_none(tmp_path):
    one, site = converted(tmp_path, storages={"HERE_DATADISK": {**DISK, "is_deterministic": False}})
    assert (site.storage.rse, site.storage.rucio) == ("", {})
    assert "not deterministic" in lost(one)["cric.astorages"]


def test_files_on_a_shared_disk_and_in_s3_need_no_rucio(tmp_path):
    local = {**DISK, "arprotocols": {"write_lan": [{"endpoint": "file://", "path": "/data/out"}]}}
    _, site = converted(
        tmp_path, copytools={"mv": {}}, acopytools={}, storages={"HERE_DATADISK": local}
    )
    assert (site.storage.roots, site.storage.default_output) == (("/data/out",), "/data/out")
    assert site.storage.rse == ""
    bucket = {"endpoint": "s3://s3.here.example:443", "path": "/bucket/out"}
    s3 = {**DISK, "arprotocols": {"write_lan": [bucket]}}
    _, site = converted(
        tmp_path, copytools={"s3": {}}, acopytools={}, storages={"HERE_DATADISK": s3}
    )
    assert site.storage.default_output == "s3://s3.here.example:443/bucket/out/"
    assert site.storage.allow == (site.storage.default_output,)


@pytest.mark.parametrize("value", [5, "text", ["x"], {"pr": 5}, {"pr": [5, None]}, {"": {}}])
def test_a_value_of_the_wrong_kind_is_no_error(value):
    keys = ("copytools", "acopytools", "acopytools_schemas", "astorages", "aprotocols")
    queue = {**QUEUE, "aprotocols": {}, "acopytools_schemas": {}}
    queues = {key: {**queue, key: value} for key in keys}
    queues["all"] = {**queue, **dict.fromkeys(keys, value)}
    for storage in ({"arprotocols": value}, {"arprotocols": {"read_lan": value}, "state": value}):
        assert len(list(convert({}, queues, {"HERE_DATADISK": storage}))) == len(queues)


def test_a_file_of_storages_by_itself_is_no_queue():
    found = read({"storages": json.dumps(STORAGES), "one": json.dumps(DISK)})
    assert (found.cric, found.harvester) == ({}, {})
    assert found.storages.keys() == {"HERE_DATADISK"}
    assert list(convert(*found)) == []
