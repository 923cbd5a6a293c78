"""Queues of Harvester and CRIC become sites that lint accepts, and nothing is lost without a
word."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml

from harvester_edge import lint
from harvester_edge.cli import main
from harvester_edge.convert import convert, read
from tests.rig.web import page, serving

SLURM = {
    "queueStatus": "offline",
    "prodSourceLabel": "managed",
    "maxWorkers": 5,
    "nQueueLimitWorker": 2,
    "maxNewWorkersPerCycle": 0,
    "mapType": "ManyToOne",
    "____comment____": "nothing",
    "submitter": {
        "module": "pandaharvester.harvestersubmitter.slurm_submitter",
        "name": "SlurmSubmitter",
        "nCorePerNode": 48,
        "nCore": 9600,
        "localQueueName": "long",
        "projectName": "hep1",
        "templateFile": "/somewhere/template.sh",
        "x509UserProxy": "/somewhere/proxy",
    },
    "messenger": {"module": "m", "name": "SharedFileMessenger", "accessPoint": "/a/${workerID}"},
    "somethingNew": 7,
}
GRID = {
    "grid.pull": {
        "isTemplateQueue": True,
        "nQueueLimitWorkerRatio": 40,
        "nQueueLimitWorkerMin": 100,
        "nQueueLimitWorkerMax": 999_999,
        "maxWorkers": 9_999_999,
        "maxNewWorkersPerCycle": 50,
        "runMode": "slave",
        "submitter": {
            "module": "x.htcondor_submitter",
            "name": "HTCondorSubmitter",
            "nProcesses": 8,
        },
    },
    "T2/one queue": {"queueStatus": "online", "templateQueueName": "grid.pull", "maxWorkers": 300},
}
CRIC = {
    "nickname": "T2/one queue",
    "panda_resource": "T2",
    "status": "online",
    "corecount": 8,
    "maxrss": 16_000,
    "maxwdir": 160_000,
    "maxtime": 172_800,
    "queues": [{"ce_endpoint": "ce:9619"}],
    "container_type": "singularity:pilot",
    "copytools": {"rucio": {}},
    "timefloor": 0,
    "brandnew": [1],
}


def sites(tmp_path, **files):
    """The converted sites, each read by lint."""
    found = list(convert(*read({name: json.dumps(told) for name, told in files.items()})))
    for one in found:
        path = tmp_path / f"{one.site['site']}.yaml"
        path.write_text(yaml.safe_dump(one.site))
        assert [fault for fault in lint.faults(path) if fault.rule.startswith("E")] == []
    return {one.queue: (one, lint.load(tmp_path / f"{one.site['site']}.yaml")) for one in found}


def test_a_slurm_queue_of_whole_nodes(tmp_path):
    one, site = sites(tmp_path, h={"BIG_HPC": SLURM})["BIG_HPC"]
    assert (site.site, site.backend.kind) == ("big-hpc", "slurm")
    assert site.slots["std"].cores == 48
    assert (site.scaling.max_total, site.scaling.max_queued) == (1000, 400)  # 200 nodes each
    assert site.backend.options["partition"] == "long"
    assert site.backend.options["account"] == "hep1"
    assert site.policy.status == "paused"
    lost = {it.key: it.why for it in one.lost}
    assert lost["somethingNew"] == "this key is not known here"
    assert "never copied" in lost["submitter.x509UserProxy"]
    assert "200 nodes" in lost["submitter.nCore"]
    assert "____comment____" not in lost
    assert "slots.std.memory" in one.site["confirm"]


def test_a_grid_queue_takes_limits_from_its_template_and_its_shape_from_cric(tmp_path):
    ((queue, (one, site)),) = sites(tmp_path, h=GRID, c=CRIC).items()
    assert queue == "T2/one queue"
    assert site.slots["std"].queue == "T2_one_queue"
    room = site.slots["std"].room()
    assert (room.cores, room.memory_mb, room.disk_mb) == (8, 16_000, 160_000)
    assert site.slots["std"].walltime_s == 172_800
    assert (site.scaling.max_total, site.scaling.per_cycle) == (300, 50)
    assert site.scaling.queued_ratio.of_running == 0.4
    assert site.scaling.queued_ratio.floor == 100
    lost = {it.key for it in one.lost}
    assert {
        "runMode",
        "submitter.nProcesses",
        "cric.queues",
        "cric.copytools",
        "cric.brandnew",
    } <= lost


def test_cric_by_itself_many_queues_and_a_template_by_itself(tmp_path):
    assert sites(tmp_path, c=CRIC).keys() == {"T2/one queue"}
    assert sites(tmp_path, c={"A": CRIC, "B": CRIC}).keys() == {"A", "B"}
    template = {"only.template": GRID["grid.pull"]}
    (one, site) = sites(tmp_path, h=template)["only.template"]
    assert site.scaling.max_total == 1_000_000
    assert any("no limit" in it.why for it in one.lost)


@pytest.mark.parametrize("module", ["cobalt_submitter", "saga_submitter", "k8s_submitter"])
def test_a_batch_system_that_we_do_not_have_is_said(tmp_path, module):
    queue = {"submitter": {"module": f"x.{module}", "name": "S"}, "maxWorkers": 3}
    one, _ = sites(tmp_path, h={"Q": queue})["Q"]
    assert "no batch system of ours" in one.lost[0].why


@pytest.mark.parametrize("value", [None, -1, "many", 1.5, True, [], {}])
def test_a_value_of_the_wrong_kind_is_reported_and_no_error(tmp_path, value):
    keys = ("maxWorkers", "nQueueLimitWorker", "nQueueLimitWorkerRatio", "nQueueLimitWorkerMin")
    for key in keys:
        sites(tmp_path, h={"Q": {"submitter": {"module": "slurm"}, key: value}})
    for key in ("corecount", "maxrss", "maxtime", "maxwdir", "status"):
        sites(tmp_path, c={"Q": {"panda_resource": "Q", key: value}})


def test_nothing_is_lost_without_a_word(tmp_path):
    """Each key of a queue is in the site, in the report, or empty."""
    one, _ = sites(tmp_path, h={"Q": SLURM})["Q"]
    told = {it.key for it in one.carried} | {it.key for it in one.lost}
    assert set(SLURM) - told == {"____comment____", "submitter"}


def slurm(**keys):
    """A queue of Slurm; keys that begin with `submitter_` are in its submitter."""
    inner = {
        key.removeprefix("submitter_"): keys.pop(key) for key in list(keys) if "submitter_" in key
    }
    return {"submitter": {"module": "x.slurm_submitter", **inner}, **keys}


def lost(one):
    return {it.key: it.why for it in one.lost}


def test_a_text_that_is_a_number_is_one(tmp_path):
    queue = slurm(
        maxWorkers="12",
        nQueueLimitWorkerRatio="40",
        nQueueLimitWorkerMin=" 2 ",
        maxNewWorkersPerCycle="3",
        submitter_nCore="8",
        submitter_nNode="1",
    )
    one, site = sites(tmp_path, h={"Q": queue})["Q"]
    assert (site.scaling.max_total, site.scaling.per_cycle) == (12, 3)
    assert (site.scaling.queued_ratio.of_running, site.scaling.queued_ratio.floor) == (0.4, 2)
    assert (site.slots["std"].cores, site.slots["std"].nodes) == (8, 1)
    assert one.lost == []


@pytest.mark.parametrize("key", ["maxWorkers", "nQueueLimitWorker", "maxNewWorkersPerCycle"])
def test_what_is_no_limit_in_harvester_is_said(tmp_path, key):
    one, site = sites(tmp_path, h={"Q": slurm(**{key: 0})})["Q"]
    assert "no limit in Harvester" in lost(one)[key]
    assert site.scaling.max_total > 0


@pytest.mark.parametrize("value", [0, -3, 0.5, False, "x", "1e3", "²", float("nan"), [1], {"a": 1}])
def test_a_value_that_cannot_be_carried_over_is_in_the_report(tmp_path, value):
    ours = ("nQueueLimitWorker", "nQueueLimitWorkerMin", "maxNewWorkersPerCycle")
    theirs = ("nCore", "nCorePerNode", "nNode")
    queue = slurm(**dict.fromkeys(ours, value), **{f"submitter_{key}": value for key in theirs})
    one, _ = sites(tmp_path, h={"Q": queue})["Q"]
    assert {*ours, *(f"submitter.{key}" for key in theirs)} <= lost(one).keys()
    keys = ("corecount", "maxrss", "maxtime", "maxwdir")
    told = {"panda_resource": "Q", **dict.fromkeys(keys, value)}
    one, _ = sites(tmp_path, c={"Q": told})["Q"]
    assert {f"cric.{key}" for key in keys} <= lost(one).keys()


@pytest.mark.parametrize("value", [0, -3, True, "x", float("nan"), float("inf"), 1e6, [40]])
def test_a_ratio_that_is_none_is_in_the_report(tmp_path, value):
    one, _ = sites(tmp_path, h={"Q": slurm(nQueueLimitWorkerRatio=value)})["Q"]
    assert "percentage" in lost(one)["nQueueLimitWorkerRatio"]


@pytest.mark.parametrize(
    ("keys", "lose", "why"),
    [
        (
            {"nQueueLimitWorkerRatio": 40, "nQueueLimitWorkerMin": 3_000_000},
            "nQueueLimitWorkerMin",
            "1000000",
        ),
        ({"submitter_localQueueName": ["a", "b"]}, "submitter.localQueueName", "not a name"),
        ({"submitter_partition": {"a": 1}}, "submitter.partition", "not a name"),
        ({"submitter_partition": "a b"}, "submitter.partition", "lint"),
        ({"submitter_partition": False}, "submitter.partition", "not a name"),
        ({"submitter_projectName": "my account"}, "submitter.projectName", "lint"),
        ({"submitter_account": "a" * 501}, "submitter.account", "lint"),
        ({"submitter_nCore": 2_000_000}, "submitter.nCore", "1000000"),
        ({"submitter_nNode": 10**4000, "submitter_nCore": 10**4000}, "submitter.nNode", "1000000"),
    ],
)
def test_what_lint_refuses_is_reported_and_left_out(tmp_path, keys, lose, why):
    one, _ = sites(tmp_path, h={"Q": slurm(**keys)})["Q"]
    assert why in lost(one)[lose]
    assert lose not in {it.key for it in one.carried}


@pytest.mark.parametrize(
    "told",
    [
        {"maxtime": 1},
        {"maxtime": 100},
        {"maxtime": 600},
        {"maxtime": 10**30},
        {"maxrss": 10**30},
        {"maxwdir": 10**30},
        {"corecount": 10**30},
    ],
)
def test_a_shape_that_no_worker_can_have_is_reported_and_left_out(tmp_path, told):
    for queue in ({}, {"h": {"Q": slurm()}}, {"h": {"Q": {"submitter": {"module": "pbs"}}}}):
        one, site = sites(tmp_path, **queue, c={"Q": {"panda_resource": "Q", **told}})["Q"]
        (key,) = told
        assert f"cric.{key}" in lost(one)
        assert site.slots["std"].walltime_s == 86_400
        assert {f"slots.std.{it}" for it in ("cores", "memory", "disk", "walltime")} == {
            it for it in site.confirm if it.startswith("slots")
        }


@pytest.mark.parametrize(
    ("queue", "name"),
    [
        ("", "site"),
        ("-x", "x"),
        ("é", "_"),
        ("a b", "a_b"),
        ("q" * 300, "q" * 200),
        ("@", "site"),
        ("\0", "_"),
    ],
)
def test_a_queue_that_cannot_be_called_so_here_is_reported(tmp_path, queue, name):
    one, site = sites(tmp_path, h={queue: slurm()})[queue]
    assert site.slots["std"].queue == name
    assert name in lost(one)["queue"]
    assert "slots.std.queue" in site.confirm


def test_a_queue_called_as_a_profile_is_not_extended_by_others(tmp_path):
    found = sites(tmp_path, h={"htcondor": GRID["grid.pull"] | {"isTemplateQueue": False}})
    assert found["htcondor"][1].site == "htcondor-site"


STRICT = ["offline", "Standby", "maintenance", "brokeroff"]


@pytest.mark.parametrize("strict", STRICT)
def test_the_stricter_status_holds(tmp_path, strict):
    for ours, theirs in (("online", strict), (strict, "online"), (strict, "test")):
        told = {"panda_resource": "Q", "status": theirs}
        one, site = sites(tmp_path, h={"Q": slurm(queueStatus=ours)}, c={"Q": told})["Q"]
        assert site.policy.status == "paused"
        loser, winner = "queueStatus", "cric.status"
        if ours == strict:
            loser, winner = winner, loser
        assert any(it.key == loser and winner in it.why for it in one.lost)
        assert [it.key for it in one.carried if it.to == "policy.status"] == [winner]


def test_a_status_that_says_more_than_ours_is_reported(tmp_path):
    for word, policy, why in (
        ("test", "online", "tests"),
        ("brokeroff", "paused", "still starts"),
        ("onlin", "paused", "no status"),
        (False, "paused", "no status"),
    ):
        one, site = sites(tmp_path, c={"Q": {"panda_resource": "Q", "status": word}})["Q"]
        assert site.policy.status == policy
        assert why in lost(one)["cric.status"]


def test_of_two_keys_for_one_thing_the_one_that_does_not_hold_is_reported(tmp_path):
    queue = slurm(nQueueLimitWorker=5, nQueueLimitWorkerMax=7, nQueueLimitWorkerMin=3)
    one, site = sites(tmp_path, h={"Q": queue})["Q"]
    assert site.scaling.max_queued == 7
    assert "nQueueLimitWorkerMax" in lost(one)["nQueueLimitWorker"]
    assert "a ratio that is not set" in lost(one)["nQueueLimitWorkerMin"]
    assert [it.key for it in one.carried if it.to.startswith("scaling")] == ["nQueueLimitWorkerMax"]


@pytest.mark.parametrize(
    ("keys", "cores", "nodes"),
    [
        ({"nNode": 128, "nCore": 8192}, 64, 128),
        ({"nNode": 2, "nCore": 96, "nCorePerNode": 48}, 48, 2),
        ({"nCore": 100, "nCorePerNode": 48}, 48, 3),
        ({"nCore": 8, "nCorePerNode": 48}, 8, 1),
        ({"nNodes": 3, "nCorePerNode": 48}, 48, 3),
        ({"nCore": 8}, 8, 1),
    ],
)
def test_cores_are_of_a_node_and_limits_of_nodes(tmp_path, keys, cores, nodes):
    limits = {"maxWorkers": 6, "nQueueLimitWorker": 4, "nQueueLimitWorkerRatio": 40}
    limits |= {"nQueueLimitWorkerMin": 2, "maxNewWorkersPerCycle": 3}
    submitter = {f"submitter_{key}": value for key, value in keys.items()}
    told = {"panda_resource": "Q", "corecount": 1}
    _, site = sites(tmp_path, h={"Q": slurm(**limits, **submitter)}, c={"Q": told})["Q"]
    assert site.slots["std"].cores == cores
    assert (site.scaling.max_total, site.scaling.max_queued) == (6 * nodes, 4 * nodes)
    assert (site.scaling.queued_ratio.of_running, site.scaling.queued_ratio.floor) == (
        0.4,
        2 * nodes,
    )
    assert site.scaling.per_cycle == 3 * nodes


def test_cores_that_nodes_cannot_share_evenly_are_reported(tmp_path):
    one, site = sites(tmp_path, h={"Q": slurm(submitter_nNode=3, submitter_nCore=100)})["Q"]
    assert "3 nodes" in lost(one)["submitter.nCore"]
    assert (site.slots["std"].cores, site.slots["std"].nodes) == (1, 1)
    assert "slots.std.cores" in site.confirm
    queue = slurm(submitter_nNode=3, submitter_nCore=100, submitter_nCorePerNode=48)
    one, site = sites(tmp_path, h={"Q": queue})["Q"]
    assert lost(one)["submitter.nCore"] == "3 nodes of 48 cores have 144"
    assert site.slots["std"].cores == 48


def test_the_verb_prints_a_site_and_reports_beside_it(tmp_path, capsys):
    file = tmp_path / "queues.json"
    file.write_text(json.dumps({"Q1": SLURM, "Q2": SLURM}))
    assert main(["convert", str(file)]) == 65
    assert "2 queues: Q1, Q2" in capsys.readouterr().err
    assert main(["convert", str(file), "--queue", "Q1"]) == 0
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["site"] == "q1"
    assert "not carried over: somethingNew = 7" in said.err
    assert main(["convert", str(file), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["q1.yaml", "q2.yaml"]
    capsys.readouterr()
    assert main(["convert", str(file), "--json"]) == 0
    assert len(msgspec.json.decode(capsys.readouterr().out)["sites"]) == 2


DEEP = '{"Q": {"submitter": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "no object of queues"),
        ('{"Q": 7}', "Q is no queue"),
        ('{"Q": {"submitter": "slurm"}}', "Q: submitter is no object"),
        ('{"Q": {"submitter": [{"module": "slurm"}]}}', "Q: submitter is no object"),
        ('{"Q": {"templateQueueName": {"a": 1}}}', "Q: templateQueueName is no text"),
        ('{"Q": {"templateQueueName": ["a"]}}', "Q: templateQueueName is no text"),
        ('{"\\ud800": {}}', "is not JSON"),
        ("[" * 51 + "]" * 51, "nested"),
        (DEEP, "nested"),
        (b"\xff", "cannot read"),
        (None, "cannot read"),
    ],
    ids=range(12),
)
def test_a_file_that_is_of_no_use_is_named_with_what_is_wrong_in_it(tmp_path, capsys, text, said):
    file = tmp_path / "queues.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["convert", str(file)]) == 65
    told = capsys.readouterr().err
    assert f"{file}" in told
    assert said in told


def test_a_queue_without_a_name_is_nobodys_template(tmp_path):
    found = sites(tmp_path, h={"": slurm(maxWorkers=3), "Q": slurm(templateQueueName="")})
    assert found.keys() == {"", "Q"}
    assert found["Q"][1].scaling.max_total == 10


def test_a_template_that_no_file_has_is_reported(tmp_path):
    one, _ = sites(tmp_path, h={"Q": {"templateQueueName": "gone", "common": {"nCore": 3}}})["Q"]
    assert any(it.key == "templateQueueName" and "no file has it" in it.why for it in one.lost)
    assert "common" in lost(one)


def test_two_queues_never_become_one_file(tmp_path, capsys):
    file = tmp_path / "queues.json"
    file.write_text(json.dumps({"A-B": slurm(maxWorkers=1), "A_B": slurm(maxWorkers=2)}))
    assert main(["convert", str(file), "--out", str(tmp_path / "out")]) == 65
    assert "queues A-B and A_B would both be site a-b" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["convert", str(file), "--out", str(tmp_path / "out"), "--queue", "A_B"]) == 0
    assert lint.load(tmp_path / "out" / "a-b.yaml").scaling.max_total == 2


def test_a_file_that_is_there_is_not_overwritten_and_none_is_written_beside_it(tmp_path, capsys):
    file, place = tmp_path / "queues.json", tmp_path / "out"
    file.write_text(json.dumps({"Q1": slurm(), "Q2": slurm()}))
    place.mkdir()
    (place / "q2.yaml").write_text("mine")
    assert main(["convert", str(file), "--out", str(place)]) == 73
    assert f"{place}/q2.yaml is there already" in capsys.readouterr().err
    assert [path.read_text() for path in place.iterdir()] == ["mine"]
    (place / "q2.yaml").unlink()
    (place / "q2.yaml").symlink_to(tmp_path / "elsewhere")
    assert main(["convert", str(file), "--out", str(place)]) == 73
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("place", ["queues.json", "queues.json/out", "/proc/out", "n" * 300])
def test_a_directory_that_cannot_be_is_named(tmp_path, capsys, place):
    file = tmp_path / "queues.json"
    file.write_text(json.dumps({"Q1": slurm()}))
    assert main(["convert", str(file), "--out", str(tmp_path / place)]) == 73
    assert f"cannot create {tmp_path / place}" in capsys.readouterr().err


def test_queue_data_is_read_from_a_live_cric(tmp_path, capsys):
    file = tmp_path / "harvester.json"
    file.write_text(json.dumps(GRID))
    queue = "T2/one queue"
    with serving(page(json.dumps({queue: CRIC}).encode())) as cric:
        assert main(["convert", str(file), cric, "--queue", queue]) == 0
    site = yaml.safe_load(capsys.readouterr().out)
    assert site["slots"]["std"]["cores"] == 8
    with serving(page(status=503)) as cric:
        assert main(["convert", cric]) == 65
    assert "answers 503" in capsys.readouterr().err
