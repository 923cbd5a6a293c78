"""A2: nothing is destroyed on the «no» of somebody who stands at the dispatcher's address."""

from __future__ import annotations

import json
from http import HTTPStatus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX, ROUTES, Scope
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Room
from ailurus.wire import authority
from ailurus.wire.authority import Judged
from ailurus.wire.client import Client, Nonsense, Unreachable
from ailurus.wire.credentials import fixed_token
from ailurus.wire.panda import PandaClient
from ailurus.wire.retry import Patience
from pilot.attempt import Attempt
from pilot.upstream.leases import Leases
from pilot.upstream.link import ONCE, Dismissed, Link
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Begun, Spool
from tests.pilot.fakes import FakeService

pytestmark = pytest.mark.field("A2")

GIVER, SEAL = "the-right-store", "never-in-a-request"
ROOM = Room(cores=1, memory_mb=1000, disk_mb=1000)
WHO = m.Register(instance="i", queue="q", total=ROOM)
HTML = b"<html><body>Please sign in</body></html>"


class Wire(Client):
    """A client whose server is a function of path and body."""

    def __init__(self, answers):
        super().__init__("http://127.0.0.1:1", fixed_token("t"), patience=ONCE)
        self.answers = answers

    def _once(self, method, url, body, kind, wait_s, *, fresh):
        return self.answers(url.removeprefix(self.url + PREFIX), body)


def problem(status, **more):
    return status, msgspec.json.encode(m.Problem(title="no", status=status, **more))


def good(path, body):
    """What the right dispatcher answers."""
    if path == "/worker/register":
        answer = m.Registered(worker_id=1, token="t", heartbeat_s=10, lease_s=30, giver=GIVER)
    elif path == "/worker/report":
        asked = msgspec.json.decode(body, type=m.Reports).reports
        answer = m.ReportVerdicts(verdicts=tuple(verdict(one, "accepted", SEAL) for one in asked))
    elif path == "/worker/beat":
        answer = m.BeatAnswer(heartbeat_s=10)
    elif path == "/worker/acquire":
        answer = m.Acquired(jobs=(), giver=GIVER)
    else:
        answer = m.Done()
    return 200, msgspec.json.encode(answer)


def verdict(report, word, seal=""):
    return m.ReportVerdict(
        job_id=report.job_id, attempt_nr=report.attempt_nr, verdict=word, seal=seal
    )


def empty_dispatcher(path, body):
    """Ours, with another store: it knows neither tokens nor attempts."""
    if path == "/worker/report":
        asked = msgspec.json.decode(body, type=m.Reports).reports
        verdicts = m.ReportVerdicts(verdicts=tuple(verdict(one, "badkey") for one in asked))
        return 200, msgspec.json.encode(verdicts)
    return problem(401, giver="another-store")


def ours_under_another_name(path, body):
    return problem(421, giver=GIVER)


def wild(path, body):
    """Who reads the request and says whatever it likes."""
    if path != "/worker/report":
        return problem(410, giver="another-store")
    asked = msgspec.json.decode(body, type=m.Reports).reports
    verdicts = tuple(verdict(one, "alreadydone", one.report_key) for one in asked)
    return 200, msgspec.json.encode(m.ReportVerdicts(verdicts=verdicts))


def always(status, body):
    return lambda path, asked: (status, body)


STRANGERS = {
    "portal": always(200, HTML),
    "empty": always(200, b""),
    "nothing": always(204, b""),
    "redirect": always(302, HTML),
    "{}": always(200, b"{}"),
    "other service": always(200, json.dumps({"status": "success", "data": []}).encode()),
    "empty verdicts": always(200, b'{"verdicts":[]}'),
    "empty dispatcher": empty_dispatcher,
    "another host": ours_under_another_name,
    "wild": wild,
    "other problem": always(*problem(410)),
    **{
        f"{status} {kind}": always(status, body)
        for status in range(400, 600)
        if status in {one.value for one in HTTPStatus} or status % 25 == 0
        for kind, body in (
            ("html", HTML),
            ("problem", problem(status)[1]),
            ("json", b'{"error": "no"}'),
        )
    },
}
ASKS = {
    "acquire": m.Acquire(request_id="r", room=ROOM),
    "beat": m.Beat(room=ROOM),
    "release": m.Release(jobs=(m.AttemptKey(job_id=1, attempt_nr=1),)),
    "log_pieces": m.LogPieces(
        pieces=(m.LogPiece(job_id=1, attempt_nr=1, stream="stdout", offset=0, text="x"),)
    ),
    "job_credentials": m.CredentialsRequest(job_id=1, attempt_nr=1),
    "job_upload": m.UploadRequest(job_id=1, attempt_nr=1, digest="0" * 64),
    "exchange_items": m.ItemsRequest(request_id="r", job_id=1, attempt_nr=1),
    "bye": m.Bye(ending="done"),
}


def raised(call):
    try:
        call()
    except AilurusError as error:
        return error
    return None


def linked(stranger):
    """A link that has registered with the right dispatcher, and now meets a stranger."""
    wire = Wire(good)
    link = Link("http://127.0.0.1:1", None, WHO, panda=wire)
    link.register(ONCE)
    wire.answers = stranger
    return link, wire


def test_no_request_holds_a_seal():
    _, parts = msgspec.json.schema_components([route.ask for route in ROUTES])
    assert b'"seal"' not in msgspec.json.encode(parts)


def test_all_that_a_worker_says_is_tried():
    said = {route.name for route in ROUTES if route.scope is Scope.WORKER}
    assert said == set(ASKS)


@pytest.mark.parametrize("name", ASKS)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_no_stranger_sends_a_pilot_away_or_finds_a_fault_in_it(name, stranger):
    link, _ = linked(STRANGERS[stranger])
    error = raised(lambda: link.call(name, ASKS[name], answer=_answer(name)))
    assert isinstance(error, Unreachable | Nonsense | None)
    assert not isinstance(error, Nonsense) or not authority.newer(error, GIVER)


@pytest.mark.parametrize("stranger", ["{}", "portal", "410 problem"])
def test_no_stranger_acknowledges_the_end_of_an_item(stranger):
    link, wire = linked(STRANGERS[stranger])
    request = ASKS["exchange_items"]
    given = m.Assignment(
        job_id=1, attempt_nr=1, report_key="k", spec=JobSpec(name="j", command="x")
    )
    attempt = Attempt(given, lambda attempt: None)
    answers = [STRANGERS[stranger]] * 2
    true = 200, msgspec.json.encode(m.ItemsAnswer(settled=True, giver=GIVER))
    wire.answers = lambda path, body: answers.pop()(path, body) if answers else true
    assert Leases(link).exchange(attempt, request).settled
    assert not answers


@pytest.mark.parametrize("stranger", STRANGERS)
def test_nor_when_it_registers_anew(stranger):
    link, _ = linked(STRANGERS[stranger])
    error = raised(lambda: link._worker_token(fresh=True))
    assert isinstance(error, Unreachable | Nonsense)
    assert link.registered.giver == GIVER


@pytest.mark.parametrize("stranger", ["portal", "404 html", "403 json", "421 problem", "redirect"])
def test_a_pilot_that_begins_waits_for_a_dispatcher_as_long_as_it_is_patient(stranger):
    answers = [STRANGERS[stranger]] * 3

    def answer(path, body):
        return (answers.pop() if answers else good)(path, body)

    link = Link("http://127.0.0.1:1", None, WHO, panda=Wire(answer))
    link._foreign = False
    assert isinstance(raised(lambda: link.register(ONCE)), Unreachable | Nonsense)
    link.register(Patience(total_s=10, first_s=0.001))
    assert link.registered.giver == GIVER


@pytest.mark.parametrize("giver", ["", "some"])
def test_a_pilot_that_begins_heeds_a_dispatcher_that_says_no(giver):
    wire = Wire(always(*problem(410, giver=giver)))
    with pytest.raises(Dismissed):
        Link("http://127.0.0.1:1", None, WHO, panda=wire).register(ONCE)


@pytest.mark.parametrize("status", sorted(authority.DISMISSALS))
def test_the_dispatcher_itself_does(status):
    link, _ = linked(always(*problem(status, giver=GIVER)))
    with pytest.raises(Dismissed):
        link.call("acquire", ASKS["acquire"], answer=m.Acquired)


def _answer(name):
    return next(route.answer for route in ROUTES if route.name == name)


class Owed:
    """A reporter that owes the report of a finished job, in a spool."""

    def __init__(self, tmp_path, stranger, seal=SEAL):
        self.link, self.wire = linked(stranger)
        self.spool, self.where = Spool(tmp_path / "spool", "me"), tmp_path / "spool"
        self.deleted: list[str] = []
        self.drained: list[str] = []
        self.reporter = Reporter(self.link, self._delete)
        file = m.DoneFile(name="o", url="file:///o", size=1, adler32="00000001")
        self.report = m.Report(
            job_id=7, attempt_nr=1, report_key="k", finished=True, files=(file,), ended=1.0
        )
        self.spool.own.begin([Begun(job_id=7, attempt_nr=1, report_key="k", seal=seal)])
        self.spool.own.keep(self.report)
        self.reporter.owe(self.report, self.spool.own, seal=seal)

    def _delete(self, urls):
        self.deleted += urls
        return []

    def turn(self):
        self.reporter._refused_at = 0.0
        assert not isinstance(raised(lambda: self.reporter._send(FakeService())), Dismissed)
        self.reporter.cleaner.turn()

    def kept(self):
        return self.reporter.owes() == 1 and self.spool.own.owed()[0].report == self.report


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_report_stays_until_the_right_dispatcher_is_back(tmp_path, stranger):
    owed = Owed(tmp_path, STRANGERS[stranger])
    for _ in range(3):
        owed.turn()
    assert owed.kept()
    assert (owed.deleted, owed.drained) == ([], [])
    owed.wire.answers = good
    owed.turn()
    assert owed.reporter.owes() == 0
    assert owed.spool.own.owed() == []
    assert owed.deleted == []


def test_the_next_pilot_knows_the_seal_too(tmp_path):
    """kill -9 while strangers answer: the report and its seal are on disk."""
    owed = Owed(tmp_path, STRANGERS["empty dispatcher"])
    owed.turn()
    owed.spool.own.close()
    (journal,) = Spool(owed.where, "next").orphans()
    (left,) = journal.owed()
    assert (left.report, left.seal, left.leftovers) == (owed.report, SEAL, ())


def test_outputs_go_on_the_verdict_of_the_giver_alone(tmp_path):
    def loser(path, body):
        if path != "/worker/report":
            return good(path, body)
        one = msgspec.json.decode(body, type=m.Reports).reports[0]
        return 200, msgspec.json.encode(
            m.ReportVerdicts(verdicts=(verdict(one, "alreadydone", SEAL),))
        )

    owed = Owed(tmp_path, loser)
    owed.turn()
    assert (owed.reporter.owes(), owed.deleted) == (0, ["file:///o"])


@pytest.mark.parametrize(
    ("word", "kept"), [("accepted", False), ("alreadydone", False), ("badkey", True)]
)
def test_a_dispatcher_from_before_seals_deletes_nothing(tmp_path, word, kept):
    def old(path, body):
        if path != "/worker/report":
            return good(path, body)
        one = msgspec.json.decode(body, type=m.Reports).reports[0]
        answer = {"job_id": one.job_id, "attempt_nr": one.attempt_nr, "verdict": word}
        return 200, msgspec.json.encode({"verdicts": [answer]})

    owed = Owed(tmp_path, old, seal="")
    owed.turn()
    assert (bool(owed.reporter.owes()), owed.deleted) == (kept, [])


def test_one_report_at_fault_does_not_hold_up_the_others(tmp_path):
    def picky(path, body):
        if path != "/worker/report":
            return good(path, body)
        asked = msgspec.json.decode(body, type=m.Reports).reports
        return (
            problem(422, giver=GIVER) if any(one.job_id == 7 for one in asked) else good(path, body)
        )

    owed = Owed(tmp_path, picky)
    for nr in range(100, 120):
        report = msgspec.structs.replace(owed.report, job_id=nr)
        owed.reporter.owe(report, owed.spool.own, seal=SEAL)
    owed.turn()
    assert owed.kept()
    assert owed.deleted == []


def test_a_draining_pilot_waits_for_its_own_reports_and_for_no_stranger_s(tmp_path):
    owed = Owed(tmp_path, STRANGERS["empty dispatcher"])
    owed.turn()
    assert not owed.reporter.idle()
    owed.reporter._owed[7, 1].adopted = True
    assert owed.reporter.idle()


def test_strangers_are_told_of_once_an_hour(tmp_path, monkeypatch):
    owed = Owed(tmp_path, STRANGERS["empty dispatcher"])
    lines = []
    monkeypatch.setattr(owed.reporter._log, "warning", lambda event, **facts: lines.append(event))
    for _ in range(50):
        owed.turn()
    assert lines.count("reports_kept") == 1


@pytest.mark.parametrize(
    ("given_seal", "shown", "obeyed"), [(SEAL, SEAL, True), (SEAL, "", False), ("", "", True)]
)
@pytest.mark.parametrize("action", ["kill", "soft_kill"])
def test_a_payload_is_stopped_by_who_gave_the_job(tmp_path, given_seal, shown, obeyed, action):
    owed = Owed(tmp_path, good)
    spec = msgspec.json.decode(b'{"name":"j","command":"true"}', type=JobSpec)
    attempt = Attempt(
        m.Assignment(job_id=9, attempt_nr=1, report_key="k", spec=spec, seal=given_seal),
        lambda _: None,
    )
    asked = []
    attempt.terminate = lambda: asked.append("soft")
    owed.reporter.add(attempt)
    owed.reporter._obey(m.Command(job_id=9, attempt_nr=1, action=m.Action(action), seal=shown))
    assert bool(attempt.stopped or asked) is obeyed


@given(word=st.text(max_size=20), shown=st.text(max_size=60), kept=st.text(min_size=1, max_size=60))
def test_without_the_seal_no_no_is_a_verdict(word, shown, kept):
    one = m.ReportVerdict(job_id=1, attempt_nr=1, verdict=word, seal=shown)
    judged = authority.judged(kept, one)
    went_back = (word, shown) == ("accepted", "")  # a dispatcher from before seals
    assert (judged is Judged.KEPT) == (shown != kept and not went_back)


@given(status=st.integers(400, 599), body=st.binary(max_size=200))
def test_no_bytes_of_a_stranger_are_the_dispatcher_s_word(status, body):
    link, _ = linked(always(status, body))
    with pytest.raises(Unreachable):
        link.call("beat", ASKS["beat"], answer=m.BeatAnswer)


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_a_pilot_that_begins_heeds_a_panda_server_that_refuses_its_token(dialect):
    panda = PandaClient("http://127.0.0.1:1", fixed_token("t"), dialect, WHO, sleep=lambda _: None)
    panda._client = Wire(lambda path, body: (403, b"You are not authorized"))
    with pytest.raises(Dismissed):
        Link("http://127.0.0.1:1", None, WHO, panda=panda).register(ONCE)


PANDA_TOOK = {
    "v1": b'{"success": true, "message": "", "data": {"StatusCode": 0, "command": "NULL"}}',
    "legacy": b'{"StatusCode": 0, "command": "NULL"}',
}
PANDA_REFUSED = {
    "v1": b'{"success": false, "message": "no such job", "data": null}',
    "legacy": b'{"StatusCode": 60, "errorDialog": "no"}',
}


@pytest.mark.parametrize("dialect", PANDA_TOOK)
@pytest.mark.parametrize(
    "stranger", [one for one in STRANGERS if "dispatcher" not in one and one != "wild"]
)
def test_of_a_panda_server_only_its_own_yes_settles_and_nothing_deletes(
    tmp_path, dialect, stranger
):
    panda = PandaClient("http://127.0.0.1:1", fixed_token("t"), dialect, WHO, sleep=lambda _: None)
    panda._client = Wire(lambda path, body: (200, b'{"success": true, "StatusCode": 0}'))
    link = Link("http://127.0.0.1:1", None, WHO, panda=panda)
    link.register(ONCE)
    owed = Owed(tmp_path, good, seal="")
    owed.reporter._link = link
    answers = (STRANGERS[stranger], lambda *_: (200, PANDA_REFUSED[dialect]))
    for panda._client.answers in answers:
        owed.turn()
        assert owed.kept()
    panda._client.answers = lambda *_: (200, PANDA_TOOK[dialect])
    owed.turn()
    assert (owed.reporter.owes(), owed.deleted) == (0, [])
    assert owed.drained == []


@pytest.mark.parametrize(
    ("word", "seal", "becomes"),
    [
        ("accepted", "", authority.Judged.SETTLED),
        ("accepted", "x", authority.Judged.KEPT),
        ("alreadydone", "", authority.Judged.KEPT),
        ("badkey", "", authority.Judged.KEPT),
    ],
)
def test_r7_a_dispatcher_that_went_back_may_accept_a_sealed_report_and_refuse_none(
    word, seal, becomes
):
    said = m.ReportVerdict(job_id=1, attempt_nr=1, verdict=word, seal=seal)
    assert authority.judged(SEAL, said) is becomes
