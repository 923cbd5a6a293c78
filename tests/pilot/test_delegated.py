"""Credentials of a job's user, in the pilot: fetched, renewed, and given to the payload that was
granted them."""

from __future__ import annotations

import io
import tarfile
from collections import deque
from pathlib import Path

import msgspec
import pytest

from ailurus.envelope import seal
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import CredentialUse, OutputFile
from ailurus.wire.client import Refused, Unreachable
from pilot.files import granted
from pilot.flow import carry
from pilot.ports import JobError, ProcessEnd, ProcessSpec
from pilot.workdir import Workdir
from tests.pilot.fakes import World

NEVER = None
SECRET = "s3cret"


def credential(name="t", *, payload=False, expires=NEVER, secret=SECRET, kind="token"):
    return m.Credential(
        name=name, kind=m.CredentialKind(kind), secret=secret, payload=payload, expires=expires
    )


def given(*credentials):
    return m.Credentials(credentials=credentials)


def uses(*names):
    return tuple(CredentialUse(name=name) for name in names)


def carried(world, **fields):
    """The report of an attempt that names credential `t`."""
    fields.setdefault("credentials", uses("t"))
    carry(world.attempt(**fields), world.kit)
    (report,) = world.reports()
    return report


def test_a_job_that_names_none_asks_for_none(tmp_path):
    world = World(tmp_path)
    assert carried(world, credentials=()).finished
    assert not world.link.sent("job_credentials")


def test_they_are_fetched_before_stage_in_and_again_before_stage_out(tmp_path):
    world = World(tmp_path)
    world.link.answers["job_credentials"] = given(credential())
    assert carried(world, outputs=(OutputFile(name="o", optional=True),)).finished
    asked = world.link.sent("job_credentials")
    assert [(one.job_id, one.attempt_nr) for one in asked] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (given(), Code.MISSING_CREDENTIALS),
        (given(credential(expires=5.0)), Code.CREDENTIAL_EXPIRED),
        (Refused(m.Problem(title="no such route", status=404)), Code.MISSING_CREDENTIALS),
    ],
)
def test_a_job_without_its_credential_fails_with_a_remedy(tmp_path, answer, code):
    world = World(tmp_path)
    world.link.answers["job_credentials"] = answer
    report = carried(world)
    assert (report.code, report.finished, report.transient) == (code, False, False)
    assert report.remedy
    assert not world.spawner.started


def test_a_dispatcher_that_is_away_is_waited_for(tmp_path):
    world = World(tmp_path)
    away = Unreachable("nobody answers")
    answers = deque([away, away, given(credential()), given(credential())])
    world.link.answers["job_credentials"] = answers
    assert carried(world).finished


def test_one_that_stays_away_gives_the_job_to_another_attempt(tmp_path):
    world = World(tmp_path)
    world.link.answers["job_credentials"] = Unreachable("nobody answers")
    report = carried(world)
    assert (report.code, report.transient) == (Code.SERVICE_UNAVAILABLE, True)


def test_only_a_payload_that_was_granted_one_has_it(tmp_path):
    seen: list[tuple[ProcessSpec, list[str]]] = []

    def program(spec: ProcessSpec) -> ProcessEnd:
        tmp = Path(spec.environment["TMPDIR"])
        seen.append((spec, sorted(p.read_text() for p in tmp.rglob("*") if p.is_file())))
        return ProcessEnd(key=1)

    world = World(tmp_path, program)
    proxy = credential("p", kind="proxy", payload=True, secret="PEM")
    world.link.answers["job_credentials"] = given(credential(), proxy)
    assert carried(world, credentials=uses("t", "p")).finished
    ((spec, texts),) = seen
    assert texts == ["PEM"]
    assert "BEARER_TOKEN_FILE" not in spec.environment
    path = Path(spec.environment["X509_USER_PROXY"])
    assert path.name == "p"
    assert SECRET not in repr(spec)
    assert "PEM" not in repr(spec)


def test_a_jobs_own_variable_stands_before_ours(tmp_path):
    world = World(tmp_path)
    world.link.answers["job_credentials"] = given(credential(payload=True))
    carried(world, environment={"BEARER_TOKEN_FILE": "mine"})
    assert world.spawner.started[0].environment["BEARER_TOKEN_FILE"] == "mine"


def test_no_log_has_them(tmp_path):
    world = World(tmp_path, lambda spec: ProcessEnd(key=1, exit_code=3))
    world.link.answers["job_credentials"] = given(credential(payload=True))
    report = carried(world, outputs=(OutputFile(name="o"),))
    data = world.storage.files["file:///out/1.1.log.tgz"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        texts = [tar.extractfile(one).read() for one in tar.getmembers()]
    assert not any(SECRET.encode() in text for text in texts)
    assert SECRET not in repr(report)


def test_they_are_renewed_while_the_payload_runs(tmp_path):
    world = World(tmp_path, lambda spec: None)
    began = world.clock.time()
    old = credential(payload=True, secret="old", expires=began + 1000)
    new = credential(payload=True, secret="new", expires=began + 9000)
    world.link.answers["job_credentials"] = deque([given(old), given(new), given(new)])
    looked: list[str] = []

    def meanwhile() -> None:
        if world.spawner.started and not looked:
            looked.append("once")
        elif looked == ["once"]:
            (file,) = [p for p in world.directory.rglob("t") if p.is_file()]
            looked.append(file.read_text())
            world.spawner.end(ProcessEnd(key=1))

    world.clock.while_waiting = meanwhile
    assert carried(world).finished
    assert looked == ["once", "new"]
    assert 500.0 in world.clock.waits  # half of what was left of its life


@pytest.mark.parametrize("renewed", [True, False])
def test_they_are_renewed_before_an_upload_is_tried_again(tmp_path, renewed):
    world = World(tmp_path, lambda spec: ProcessEnd(key=1))
    old = given(credential(secret="old", expires=world.clock.time() + 20))
    new = given(credential(secret="new", expires=world.clock.time() + 9000))
    answers = [new] * 9 if renewed else [given()] * 9
    world.link.answers["job_credentials"] = deque([old, old, *answers])
    attempt = world.attempt(credentials=uses("t"), outputs=(OutputFile(name="o"),))
    world.spawner.program = lambda spec: (leave(spec), ProcessEnd(key=1))[1]
    shown: list[str] = []
    world.storage.on_call = lambda check: shown.append(attempt.credentials[0].secret)
    world.storage.failures.append(JobError(Code.STAGE_OUT_FAILED, "it is away", transient=True))
    carry(attempt, world.kit)
    (report,) = world.reports()
    assert report.finished
    assert shown[:2] == ["old", "new" if renewed else "old"]


def leave(spec: ProcessSpec) -> None:
    (Path(spec.directory) / "o").write_text("result")


def test_a_renewal_that_fails_ends_no_payload(tmp_path):
    world = World(tmp_path, lambda spec: None)
    ours = given(credential(payload=True, expires=world.clock.time() + 1000))
    world.link.answers["job_credentials"] = deque([ours, given(), ours, ours])
    rounds: list[int] = []

    def meanwhile() -> None:
        if world.spawner.started:
            rounds.append(1)
            if len(rounds) == 3:
                world.spawner.end(ProcessEnd(key=1))

    world.clock.while_waiting = meanwhile
    assert carried(world).finished


def test_a_link_that_the_payload_made_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        (work.tmp / granted.FOLDER).symlink_to(outside)
        with pytest.raises(Exception, match="credentials"):
            granted.write([credential(payload=True)], work)
    assert not list(outside.iterdir())


def test_a_job_that_leaves_nothing_needs_no_credential_at_its_end(tmp_path):
    world = World(tmp_path)
    world.link.answers["job_credentials"] = deque([given(credential()), given()])
    assert carried(world).finished


def sealed(*credentials, job=(1, 1)):
    """A dispatcher's answer behind a relay: sealed for the pilot that asks."""

    def answer(name, ask):
        bound = m.CredentialsRequest(job_id=job[0], attempt_nr=job[1]).bound
        return m.Credentials(sealed=seal(msgspec.json.encode(credentials), ask.sealed_to, bound))

    return answer


def test_those_that_a_relay_passes_on_sealed_are_opened(tmp_path):
    texts: list[str] = []

    def program(spec: ProcessSpec) -> ProcessEnd:
        texts.append(Path(spec.environment["BEARER_TOKEN_FILE"]).read_text("utf-8"))
        return ProcessEnd(key=1)

    world = World(tmp_path, program)
    world.link.answers["job_credentials"] = sealed(credential(payload=True))
    assert carried(world).finished
    assert texts == [SECRET]


def test_what_was_sealed_for_another_attempt_is_no_credential(tmp_path):
    world = World(tmp_path)
    world.link.answers["job_credentials"] = sealed(credential(), job=(1, 2))
    assert carried(world).code == Code.SERVICE_UNAVAILABLE


def test_files_are_stored_with_those_at_hand_while_no_dispatcher_answers(tmp_path):
    world = World(tmp_path)
    away = Unreachable("nobody answers")
    world.link.answers["job_credentials"] = deque([given(credential()), *[away] * 9])
    assert carried(world, outputs=(OutputFile(name="o", optional=True),)).finished


def test_but_not_with_one_that_has_expired_meanwhile(tmp_path):
    world = World(tmp_path)
    soon = world.clock.time() + 5

    def program(spec: ProcessSpec) -> ProcessEnd:
        world.clock.forward(10)
        return ProcessEnd(key=1)

    world.spawner.program = program
    first = [given(credential(expires=soon))]
    world.link.answers["job_credentials"] = lambda name, ask: (
        first.pop() if first else Unreachable("nobody answers")
    )
    report = carried(world, outputs=(OutputFile(name="o", optional=True),))
    assert (report.code, report.transient) == (Code.SERVICE_UNAVAILABLE, True)
