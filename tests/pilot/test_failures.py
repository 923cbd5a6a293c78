"""Whatever fails in the life of an attempt or of a pilot, there is a report, or the pilot ends and
says why."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import pilot
from ailurus import loops
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment, Report
from ailurus.protocol.resources import Resources
from ailurus.protocol.worker import Ending
from pilot import flow, serve
from pilot.acquiring import Terms
from pilot.attempt import Attempt
from pilot.clock import SYSTEM
from pilot.flow import carry
from pilot.node.local import LocalNode
from pilot.node.slots import Slots
from pilot.ports import JobError, ProcessEnd
from pilot.run import Outcome
from pilot.serve import HANDLED_SIGNALS, Server
from tests.pilot.attempts import attempt_of
from tests.pilot.fakes import FakeContainer, FakeSpawner
from tests.turns import named


class Office:
    """A reporter that notes what it is told."""

    closed = True

    def __init__(self) -> None:
        self.cleaner: Any = SimpleNamespace(closed=True, run=lambda loop, done: None)
        self.owed: list[Report] = []
        self.released: list[Attempt] = []
        self.attempts: list[Attempt] = []

    def owe(
        self,
        report: Report,
        journal: object,
        ends: object = None,
        *,
        seal: str = "",
        leftovers: object = (),
    ) -> None:
        msgspec.json.encode(report)
        self.owed.append(report)

    def release(self, attempt: Attempt) -> None:
        self.released.append(attempt)

    def add(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def forget(self, attempt: Attempt) -> None:
        self.attempts.remove(attempt)

    def follow(self, attempt: Attempt) -> Any:
        return SimpleNamespace(rest=lambda: None)

    def drain(self) -> None:
        pass

    def changed(self, attempt: Attempt) -> None:
        pass

    def run(self, loop: loops.Loop, service: object) -> None:
        pass

    def idle(self) -> bool:
        return True

    def owes(self) -> int:
        return 0


def kit_of(directory: Path) -> Any:
    office = Office()
    return SimpleNamespace(
        host="h",
        clock=SYSTEM,
        directory=directory,
        node=LocalNode(FakeContainer(), FakeSpawner()),
        delegation=SimpleNamespace(fetch=lambda attempt: (), renew=lambda attempt: None),
        stage=SimpleNamespace(
            allowed=lambda attempt: None,
            stage_in=lambda attempt, work: None,
            stage_out=lambda *_: (),
            planned=lambda attempt: [],
        ),
        slots=Slots(Resources(cores=4, memory_mb=9000, disk_mb=9000)),
        reporter=office,
        supervisor=SimpleNamespace(run=lambda loop: None, closed=True),
        journal=SimpleNamespace(
            keep=lambda report: None, begin=lambda begun: None, settle=lambda ids: None
        ),
    )


LACK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/\udce9")
THROWN = [
    (LACK, Code.NO_LOCAL_SPACE),
    (OSError(errno.EMFILE, "too many"), Code.RESOURCE_UNAVAILABLE),
    (MemoryError(), Code.RESOURCE_UNAVAILABLE),
    (RuntimeError("can't start new thread \0"), Code.INTERNAL),
    (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates"), Code.INTERNAL),
]
ON_THE_WAY = [
    "stage.allowed",
    "work.make",
    "stage.stage_in",
    "run",
    "stage.stage_out",
    "keep_log",
    "measure_output",
    "stderr_tail",
]
AT_THE_END = ["follow", "journal.keep"]


def break_at(where: str, error: BaseException, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def thrower(*_: object, **__: object) -> Any:
        raise error

    owner, _, name = where.rpartition(".")
    if owner == "work":
        monkeypatch.setattr(flow.Workdir, name, thrower)
    elif owner:
        setattr(getattr(kit, owner), name, thrower)
    elif where == "follow":
        kit.reporter.follow = thrower
    else:
        monkeypatch.setattr(flow, name, thrower)


@pytest.mark.field("L4", "L6")
@pytest.mark.parametrize(("error", "code"), THROWN, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("where", [*ON_THE_WAY, *AT_THE_END])
def test_every_way_out_is_one_report(
    where: str, error: BaseException, code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = kit_of(tmp_path)
    monkeypatch.setattr(flow, "run", lambda *_: Outcome(exit_code=0))
    monkeypatch.setattr(flow, "keep_log", lambda *_: ())
    monkeypatch.setattr(flow, "measure_output", lambda *_: None)
    break_at(where, error, kit, monkeypatch)
    carry(attempt_of("true"), kit)
    (report,) = kit.reporter.owed
    if where in AT_THE_END:
        assert report.finished
    else:
        assert (report.code, report.transient) == (code, True)
        assert "\0" not in report.diagnosis
    assert not list(tmp_path.iterdir())


@pytest.mark.field("L6")
def test_a_report_is_text_that_any_dispatcher_takes(tmp_path: Path) -> None:
    error = JobError(Code.INTERNAL, "caf\udce9 \0", remedy="\udce9")
    report = flow.report_of(attempt_of("true"), kit_of(tmp_path), None, (), error, "\udce9\0")
    for text in (report.diagnosis, report.remedy, report.stderr_tail):
        text.encode()
        assert "\0" not in text
        assert "udce9" in text


def test_a_report_names_the_node_that_its_job_ran_on(tmp_path: Path) -> None:
    attempt, kit = attempt_of("true"), kit_of(tmp_path)
    assert flow.report_of(attempt, kit, None, (), None, "").host == kit.host
    attempt.host = "n2"
    assert flow.report_of(attempt, kit, None, (), None, "").host == "n2"
    assert flow.begun(attempt, kit, ()).host == "n2"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    kit = kit_of(tmp_path)
    yield Server(kit, SimpleNamespace(), Terms(grace_s=0.0))  # type: ignore[arg-type]
    while signal.sigtimedwait(HANDLED_SIGNALS, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def assignment(number: int) -> Assignment:
    spec = JobSpec(name="job", command="true")
    return Assignment(job_id=number, attempt_nr=1, report_key="k", spec=spec)


def no_threads(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.field("L6")
def test_jobs_without_a_thread_are_given_back_and_the_pilot_drains_as_failed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_threads(monkeypatch, "job-")
    server.take([assignment(1), assignment(2)])
    office: Any = server._kit.reporter
    assert [attempt.id[0] for attempt in office.released] == [1, 2]
    assert server.ending is Ending.FAILED
    assert server.broken
    assert "processes or threads" in server.diagnosis
    assert server._over()


@pytest.mark.field("L6")
@pytest.mark.parametrize("name", ["acquirer", "cleaner", "reporter", "supervisor"])
def test_a_pilot_that_gets_no_thread_says_so_and_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    no_threads(monkeypatch, name)
    with pytest.raises(AilurusError, match="processes or threads"):
        server.serve()
    assert server.ending is Ending.FAILED


@pytest.mark.field("L6")
@pytest.mark.parametrize("broken", ["acquirer", "cleaner", "reporter", "supervisor"])
def test_a_loop_that_does_not_recover_ends_the_pilot(
    server: Server, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(loops, "DOWN_S", 0.0)
    monkeypatch.setattr(serve, "REPORTING_S", 0.0)

    def fails(*_: object, **__: object) -> Any:
        raise KeyError("what nobody thought of")

    kit: Any = server._kit
    if broken == "acquirer":
        server._link.call = fails  # type: ignore[method-assign]
    else:
        server._link.call = lambda *_, **__: threading.Event().wait()  # type: ignore[method-assign]
        part = kit.reporter.cleaner if broken == "cleaner" else getattr(kit, broken)
        part.run, part.closed = fails, False
    served = server.serve()
    assert served.ending is Ending.FAILED
    assert broken in served.diagnosis
    assert "what nobody thought of" in served.diagnosis


@pytest.mark.field("L6")
def test_an_attempt_that_cannot_even_be_reported_is_let_go(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(serve, "carry", fails)
    server.take([assignment(1)])
    for thread in threading.enumerate():
        if thread.name.startswith("job-"):
            thread.join()
    office: Any = server._kit.reporter
    assert office.attempts == []  # no heartbeat renews its lease
    assert server.ending is Ending.FAILED


def carried(server: Server, number: int) -> None:
    server.take([assignment(number)])
    for thread in threading.enumerate():
        if thread.name.startswith("job-"):
            thread.join()


def ends(code: Code | None) -> Callable[..., Outcome]:
    error = None if code is None else JobError(code, "lacks")
    return lambda *_: Outcome(exit_code=0, error=error)


@pytest.mark.field("L4", "L6")
@pytest.mark.parametrize("lacks", ["work.make", "stage.stage_in", "container"])
def test_a_node_that_begins_no_job_takes_no_more_of_them(
    server: Server, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """With its directory gone, one pilot failed 12 jobs five times each, within a second."""
    monkeypatch.setattr(flow, "keep_log", lambda *_: ())
    monkeypatch.setattr(flow, "run", ends(Code.CONTAINER_FAILED))
    if lacks != "container":
        break_at(lacks, LACK, server._kit, monkeypatch)
    for number in range(serve.MOST_NODE_FAULTS):
        assert server.ending is Ending.DONE
        carried(server, number)
    assert server.ending is Ending.FAILED
    assert server.broken
    assert "could not begin here" in server.diagnosis


@pytest.mark.field("A22")
@pytest.mark.parametrize("between", [None, Code.PAYLOAD_FAILED])
def test_jobs_that_fail_by_themselves_drain_no_pilot(
    server: Server, monkeypatch: pytest.MonkeyPatch, between: Code | None
) -> None:
    monkeypatch.setattr(flow, "keep_log", lambda *_: ())
    for number in range(4 * serve.MOST_NODE_FAULTS):
        last = number % serve.MOST_NODE_FAULTS == serve.MOST_NODE_FAULTS - 1
        monkeypatch.setattr(flow, "run", ends(between if last else Code.CONTAINER_FAILED))
        carried(server, number)
    assert not server.diagnosis


@pytest.mark.field("L6")
def test_a_guardian_that_is_not_understood_is_as_good_as_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import socket

    from pilot.process.spawner import GuardedSpawner

    monkeypatch.setattr("pilot.process.kill.kill_descendants", lambda pid: None)
    ours, theirs = socket.socketpair()
    made = GuardedSpawner(ours, 0)
    ended: list[ProcessEnd] = []
    made._waiting[1] = ended.append
    lost: list[bool] = []
    theirs.sendall(b"\0\0\0\1\xc1")  # a byte that MessagePack never has
    made.listen(lambda: lost.append(True))
    assert lost
    assert ended[0].errno
    assert theirs.recv(1) == b""  # so that it ends
    ours.close()
    theirs.close()


def test_a_stop_before_the_start_is_still_a_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = kit_of(tmp_path)

    def stopped(attempt: Attempt, work: object) -> None:
        raise JobError(Code.SIGTERM, "the pilot ends")

    kit.stage.stage_in = stopped
    attempt = attempt_of("true")
    attempt.give_back = True
    carry(attempt, kit)
    assert kit.reporter.released == [attempt]
    assert kit.reporter.owed == []


@pytest.mark.field("L6")
@pytest.mark.parametrize("option", ["--workdir", "--spool"])
def test_a_directory_that_is_not_utf8_is_refused_before_anything_is_acquired(
    option: str, tmp_path: Path
) -> None:
    from pilot.options import parse
    from pilot.site import Site
    from pilot.start import started

    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    argv = ["--url", "http://127.0.0.1:9", "-q", "q", "--workdir", str(tmp_path), option, odd]
    nobody: Any = None
    with (
        pytest.raises(AilurusError, match=rf"{option}.*UTF-8"),
        started(parse(argv, {}), Site(), nobody),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.field("K1")
def test_every_loop_of_the_pilot_is_thrown_into_above() -> None:
    # Of a node, begun when a payload needs them; one that is down drains the pilot as well.
    of_nodes = {"agents", "doors", "sampler", "streams"}
    assert named(pilot, "thread") - of_nodes == {"acquirer", "cleaner", "reporter", "supervisor"}


def test_a_finished_attempt_says_which_nodes_came_and_went_and_what_it_left(tmp_path):
    attempt, kit = attempt_of("true"), kit_of(tmp_path)
    assert flow.report_of(attempt, kit, None, (), None, "", "it left a").diagnosis == "it left a"
    attempt.node_changes += ["n3 was lost", "n4 came"]
    report = flow.report_of(attempt, kit, None, (), None, "", "it left a")
    changed = "its nodes changed while it ran: n3 was lost, n4 came"
    assert report.diagnosis == f"{changed}; it left a"
    assert flow.report_of(attempt, kit, None, (), None, "").diagnosis == changed
