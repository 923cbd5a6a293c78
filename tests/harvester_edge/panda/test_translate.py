"""What an instance says of its workers, and what it understands of what it is told."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.evidence import Worker
from harvester_edge.panda import translate
from harvester_edge.panda.translate import Type
from harvester_edge.site import Site, Slot

RECORDED = Path(__file__).parents[2] / "recorded/panda/harvester-commands.jsonl"
HARVESTERS = frozenset(
    (
        "submitted",
        "ready",
        "idle",
        "running",
        "pending",
        "finished",
        "failed",
        "cancelled",
        "missed",
    )
)


def requests(path):
    for line in RECORDED.read_text().splitlines():
        one = json.loads(line)
        if one["path"].endswith(path) and one["body"]:
            yield one["body"]["params"]


def slot(cores, memory, queue="q", **more):
    return Slot(queue=queue, cores=cores, memory=memory, disk="10G", walltime="1h", **more)


def site_of(tree, **slots):
    return msgspec.structs.replace(msgspec.convert(tree, Site), slots=slots)


def worker(phase=Phase.ACTIVE, **more):
    return Worker(
        intent="t", index=0, slot="std", queue="q", planned=1.0, phase=phase, worker_id=7, **more
    )


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("ending", [None, *Ending])
@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_every_state_has_one_of_harvesters_words_or_is_not_told_yet(phase, ending, outcome):
    said = translate.status(worker(phase, ending=ending, outcome=outcome))
    assert said in HARVESTERS or phase in (Phase.PLANNED, Phase.SUBMITTING)
    assert (said in ("finished", "failed", "cancelled", "missed")) == (phase is Phase.ENDED)


def test_no_key_is_told_that_harvester_does_not_tell():
    known = {key for ask in requests("update_workers") for one in ask["workers"] for key in one}
    known |= {
        "startTime",
        "endTime",
        "diagMessage",
    }  # of those that ended otherwise: facts of 0.7.5
    ended = worker(
        Phase.ENDED, ending=Ending.FAILED, started=2.0, ended=3.0, diagnosis="x", batch_id="9"
    )
    said = translate.worker_message(ended, slot(8, "16GiB"), "managed", "MCORE", "host")
    assert set(said) <= known
    (recorded,) = [one for ask in requests("update_workers") for one in ask["workers"]][:1]
    always = set(recorded) - {"nativeExitCode"}
    assert always <= set(said)
    same = {key: type(value) for key, value in recorded.items() if key in said}
    assert same == {key: type(said[key]) for key in same}


def test_times_are_written_as_harvester_writes_them():
    (ask,) = list(requests("update_workers"))[:1]
    written = ask["workers"][0]["submitTime"]
    assert len(translate.timestamp(0.0)) == len(written)
    assert translate.timestamp(0.0) == "datetime/1970-01-01 00:00:00.000000"


def test_statistics_have_the_recorded_shape():
    recorded = [json.loads(ask["statistics"]) for ask in requests("report_worker_statistics")]
    mine = translate.statistics([(worker(), "managed", "SCORE")], {("managed", "SCORE"): 2})
    assert mine == {
        "managed": {"SCORE": {"running": 1, "submitted": 0, "finished": 0, "to_submit": 2}}
    }
    assert recorded[0]["managed"]["SCORE"].keys() == mine["managed"]["SCORE"].keys()


TYPES = translate.types(
    [
        {"resource_name": "SCORE", "mincore": 1, "maxcore": 1, "minrampercore": None, "maxrampercore": 2000},
        {"resource_name": "MCORE", "mincore": 2, "maxcore": None, "minrampercore": None},
        {"resource_name": "MCORE_HIMEM", "mincore": 2, "maxcore": None, "minrampercore": 2001},
    ],
    mcore=8,
)  # fmt: skip


def test_types_say_what_they_ask_of_a_node():
    assert {"SCORE": Type(1, 0), "MCORE": Type(8, 0), "MCORE_HIMEM": Type(8, 2001)} == TYPES


def test_a_pilot_of_a_type_goes_to_the_smallest_slot_that_holds_it(tree):
    site = site_of(
        tree, one=slot(1, "2000M"), eight=slot(8, "16000M"), big=slot(64, "256GiB"),
        other=slot(8, "16000M", queue="other"),
    )  # fmt: skip
    assert translate.slot_for(site, "q", TYPES["SCORE"]) == ("one", 1)
    assert translate.slot_for(site, "q", TYPES["MCORE"]) == ("eight", 1)
    assert translate.slot_for(site, "q", TYPES["MCORE_HIMEM"]) == ("big", 8)
    assert translate.slot_for(site, "q", None) == ("one", 1)
    assert translate.slot_for(site, "nobody's", None) is None
    assert translate.slot_for(site_of(tree, one=slot(1, "2000M")), "q", TYPES["MCORE"]) is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(ANYTHING)
def test_whatever_a_server_says_is_read_or_left_out(said):
    assert all(wish.pilots >= 0 for wish in translate.targets("q", said, 1.0))
    assert set(translate.matching_workers(said, [worker()], "h")) <= {worker()}
    assert set(translate.listed_workers(said, [worker()])) <= {worker()}
    assert all(n >= 0 for n in translate.activated(said, "q").values())


def test_each_word_of_a_kill_restricts():
    all_of = [worker(), worker(Phase.QUEUED)]

    def hit(**query):
        return [translate.status(one) for one in translate.matching_workers(query, all_of, "here")]

    assert hit(status=["running"], computingSite=["q"]) == ["running"]
    assert hit(status=["submitted", "running"], computingSite="ALL") == ["running", "submitted"]
    assert hit(status=["running"], computingSite=["elsewhere"]) == []
    assert hit(status=["running"], computingElement=["ce1"]) == []
    assert hit(status=["running"], submissionHost=["there"]) == []
    assert hit(status=["running"], submissionHost=["here"]) == ["running"]
    assert list(translate.listed_workers([{"workerID": 7}], [worker()])) == [worker()]
    assert list(translate.listed_workers([8, "7"], [worker()])) == [worker()]
