"""Notices between dispatchers: versions before and after this one read them."""

from __future__ import annotations

import msgspec
import pytest

from dispatcher.ports import NOTICE_BYTES
from dispatcher.service import notices

BEFORE = [
    (notices.SoftKill(job_ids=(3, 4)), {"kind": "soft_kill", "job_ids": [3, 4]}),
    (notices.Look(job_ids=(3,), seconds=30.0), {"kind": "look", "job_ids": [3], "seconds": 30.0}),
    (
        notices.TailRequest(job_ids=(3,), text="log"),
        {"kind": "tail", "job_ids": [3], "text": "log"},
    ),
    (notices.CurveRequest(job_ids=(3,)), {"kind": "curve", "job_ids": [3]}),
    (notices.LogArrived(job_ids=(3,)), {"kind": "arrived", "job_ids": [3]}),
    (
        notices.PandaAttempt(job_ids=(3,), text="{}"),
        {"kind": "panda", "job_ids": [3], "text": "{}"},
    ),
    (
        notices.NodeVerdict(text="{}", process="p"),
        {"kind": "verdict", "text": "{}", "process": "p"},
    ),
    (notices.UserSpending(text="{}", process="p"), {"kind": "rates", "text": "{}", "process": "p"}),
]
"""Each kind, and the JSON that versions before read and send."""


@pytest.mark.parametrize(("notice", "json"), BEFORE, ids=lambda one: type(one).__name__)
def test_a_notice_is_the_json_that_other_versions_know(notice, json):
    assert msgspec.json.decode(notices.encode(notice)) == json
    assert notices.decode(msgspec.json.encode(json).decode()) == notice


def test_a_notice_of_many_long_ids_is_sent_in_parts_that_the_database_carries():
    ids = tuple(range(2**62, 2**62 + 1000))
    parts = list(notices.parts(notices.SoftKill(job_ids=ids)))
    assert tuple(one for part in parts for one in part.job_ids) == ids
    assert max(len(notices.encode(part).encode()) for part in parts) <= NOTICE_BYTES


def test_every_kind_is_held():
    assert {type(notice) for notice, _ in BEFORE} == set(notices.AnyNotice.__args__)


def test_a_kind_that_only_a_newer_version_knows_is_ignored():
    assert notices.decode('{"kind": "telepathy", "job_ids": "all of them"}') is None


@pytest.mark.parametrize("text", ["", "words", "3", "{}", '{"kind": "look", "job_ids": 3}'])
def test_what_is_no_notice_is_an_error(text):
    with pytest.raises(msgspec.DecodeError):
        notices.decode(text)
