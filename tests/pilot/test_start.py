"""From options and a site file to a pilot's parts, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import plugins
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.resources import Resources, Room
from ailurus.protocol.worker import Ending
from ailurus.wire.client import Refused, Unreachable
from ailurus.wire.credentials import TokenFile
from ailurus.wire.panda import PandaClient
from pilot import __main__ as program
from pilot import start
from pilot.node import machine
from pilot.node.machine import Inventory
from pilot.options import Options, parse
from pilot.ports import JobError
from pilot.process import children
from pilot.serve import HANDLED_SIGNALS, Served, Server
from pilot.site import ContainerChoice, PilotChoice, Site, SlotChoice, Storage
from pilot.start import recover, started
from pilot.upstream.link import Dismissed
from pilot.upstream.spool import Begun, Spool
from tests.pilot.fakes import FakeContainer, FakeLink, verdict
from tests.pilot.nursery import nursery

BARE = ContainerChoice(default="bare", bare=True)
BARE_SITE = Site(container=BARE)


class FakeGuarded:
    """A spawner whose guardian lives until it is lost."""

    def listen(self, on_loss: Any) -> None:
        pass


def guarded() -> Any:
    return FakeGuarded()


@pytest.fixture(autouse=True)
def _blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    yield
    while signal.sigtimedwait(HANDLED_SIGNALS, 0):
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    made = FakeLink()
    made.register = lambda patience: made.registered  # type: ignore[attr-defined]
    monkeypatch.setattr(start, "_link", lambda *_: made)
    return made


def options_of(directory: Path, *more: str, **env: str) -> Options:
    work = directory / "work"
    return parse(["--url", "http://127.0.0.1:9", "-q", "q", "-a", str(work), *more], env)


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def run(options: Options, site: Site = BARE_SITE, inside: Any = None) -> Server:
    with started(options, site, guarded()) as server:
        if inside is not None:
            inside(server)
    return server


def test_a_pilot_that_starts_and_ends_leaves_its_work_directory_empty(tmp_path, link):
    seen: list[str] = []
    run(options_of(tmp_path), inside=lambda server: seen.extend(names(tmp_path / "work")))
    (name,) = seen
    assert name.startswith("ailurus-")
    assert names(tmp_path / "work") == []
    (bye,) = link.sent("bye")
    assert bye.ending == Ending.DONE


def test_what_it_says_at_its_end_is_why_it_drained(tmp_path, link):
    run(options_of(tmp_path), inside=lambda server: server.drain("enough", Ending.IDLE_EXIT))
    (bye,) = link.sent("bye")
    assert (bye.ending, bye.diagnosis) == (Ending.IDLE_EXIT, "enough")


def test_a_goodbye_that_nobody_hears_is_no_error(tmp_path, link):
    link.answers["bye"] = Unreachable("no answer")
    run(options_of(tmp_path))


def test_a_pilot_that_is_dismissed_as_it_registers_leaves_nothing(tmp_path, link):
    def dismissed(patience: object) -> None:
        raise Dismissed(Refused(m.Problem(title="no", status=410)))

    link.register = dismissed
    with pytest.raises(Dismissed):
        run(options_of(tmp_path))
    assert names(tmp_path / "work") == []


def test_slots_and_lifetime_are_those_of_the_slot(tmp_path, link):
    slot = SlotChoice(queue="q", cores=3, memory="2GiB", disk="1GiB", walltime="2h", gpus=0)
    site = Site(container=BARE, slots={"s": slot})
    server = run(options_of(tmp_path), site)
    assert server._kit.slots.total == Room(cores=3, memory_mb=2048, disk_mb=1024, gpus=0)
    assert 7000 < (server.seconds_left() or 0) <= 7200
    shorter = run(options_of(tmp_path, "-l", "1h"), site)
    assert (shorter.seconds_left() or 0) <= 3600


def test_without_a_slot_the_pilot_has_what_the_machine_shows(tmp_path, link):
    total = run(options_of(tmp_path))._kit.slots.total
    assert total.cores >= 1
    assert total.memory_mb > 100


def test_reports_without_a_verdict_keep_the_directory_of_a_spool_that_lies_in_it(tmp_path, link):
    link.answers["report"] = Unreachable("no answer")
    report = m.Report(job_id=1, attempt_nr=1, report_key="k", finished=True)
    run(
        options_of(tmp_path),
        inside=lambda server: server._kit.reporter.owe(report, server._kit.journal, seal=""),
    )
    (name,) = names(tmp_path / "work")
    assert (tmp_path / "work" / name / "spool").is_dir()


def test_the_next_pilot_on_a_spool_takes_over_what_a_dead_one_left(tmp_path, link, monkeypatch):
    monkeypatch.setattr(start, "container_of", lambda *_: FakeContainer())
    spool = tmp_path / "spool"
    dead = Spool(spool, "dead")
    lost = tmp_path / "work" / "ailurus-dead" / "1.1"
    lost.mkdir(parents=True)
    dead.own.begin([Begun(job_id=1, attempt_nr=1, report_key="k", directory=str(lost))])
    os.close(dead.own._fd)
    empty = Spool(spool, "empty")
    os.close(empty.own._fd)
    server = run(options_of(tmp_path, "--spool", str(spool)))
    assert not lost.parent.exists()
    assert server._kit.reporter.owes() == 1
    assert not (spool / "empty.journal").exists()


def test_recover_sends_the_reports_of_the_dead_and_registers_nothing(tmp_path, link):
    dead = Spool(tmp_path / "spool", "dead")
    dead.own.begin([Begun(job_id=1, attempt_nr=1, report_key="k")])
    os.close(dead.own._fd)
    options = options_of(tmp_path, "--recover", "--spool", str(tmp_path / "spool"))
    recover(options, Site(), guarded())
    (sent,) = link.sent("report")
    assert [(one.job_id, one.code) for one in sent.reports] == [(1, Code.KILL_SIGNAL)]
    assert names(tmp_path / "spool") == []
    recover(options, Site(), guarded())
    assert len(link.sent("report")) == 1


def test_recover_has_no_directory_of_jobs_that_the_sites_storage_could_show(tmp_path, link):
    options = options_of(tmp_path, "--recover", "--spool", str(tmp_path / "spool"))
    recover(options, Site(storage=Storage(roots=(f"{tmp_path}/work/ailurus-1",))), guarded())


def test_recover_removes_what_a_mover_had_uploaded_and_says_what_is_left(
    tmp_path, link, monkeypatch
):
    root = Path(__file__).parents[2]
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{root}:{':'.join(sys.path)}"}
    command = [sys.executable, "-P", "-m", "tests.pilot.process.movers"]
    monkeypatch.setattr(children, "mover_command", lambda: command)
    monkeypatch.setattr(children, "mover_environment", lambda own: environment)
    table = {**plugins.TABLE, "mover": {"trouble": "tests.pilot.process.movers:Trouble"}}
    monkeypatch.setattr(plugins, "TABLE", table)
    (tmp_path / "uploaded").touch()
    (tmp_path / "directory").mkdir()
    urls = [f"x://h/copy:{tmp_path}/{name}" for name in ("uploaded", "directory")]
    dead = Spool(tmp_path / "spool", "dead")
    dead.own.begin(
        Begun(job_id=nr, attempt_nr=1, report_key="k", outputs=(url,))
        for nr, url in enumerate(urls)
    )
    os.close(dead.own._fd)
    options = options_of(tmp_path, "--recover", "--spool", str(tmp_path / "spool"))
    site = Site(storage=Storage(plugins={"x": "trouble"}, allow=("x://h/",)))
    with (
        contextlib.closing(nursery().start()) as spawner,
        pytest.raises(AilurusError, match="files of 1 attempts"),
    ):
        recover(options, site, spawner)
    assert not (tmp_path / "uploaded").exists()
    assert len(names(tmp_path / "spool")) == 1


def test_recover_says_what_it_could_not_send(tmp_path, link):
    link.answers["report"] = lambda name, request: m.ReportVerdicts(
        verdicts=tuple(verdict(one, "badkey") for one in request.reports)
    )
    dead = Spool(tmp_path / "spool", "dead")
    dead.own.begin([Begun(job_id=1, attempt_nr=1, report_key="k")])
    os.close(dead.own._fd)
    options = options_of(tmp_path, "--recover", "--spool", str(tmp_path / "spool"))
    with pytest.raises(AilurusError, match="1 reports stay"):
        recover(options, Site(), guarded())


def test_a_system_without_threads_is_said_so(tmp_path, link, monkeypatch):
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(JobError, match="processes or threads"):
        run(options_of(tmp_path))


# its credential, its server -----------------------------------------------------------------------


def test_a_bootstrap_token_is_taken_once(tmp_path):
    file = tmp_path / "token"
    file.write_bytes(b" secret \n")
    options = options_of(tmp_path, AILURUS_BOOTSTRAP_FILE=str(file))
    credential = start._credential(options)
    assert credential is not None
    assert credential() == "secret"
    assert not file.exists()
    with pytest.raises(AilurusError, match="bootstrap token"):
        start._credential(options)


def test_a_token_file_is_read_whenever_it_is_needed(tmp_path):
    assert start._credential(options_of(tmp_path)) is None
    options = options_of(tmp_path, "--token-file", "/t")
    assert isinstance(start._credential(options), TokenFile)


@pytest.mark.parametrize(
    ("dialect", "bootstrap", "answer", "panda"),
    [
        (None, True, None, False),
        ("native", False, None, False),
        ("v1", False, None, True),
        (None, False, "legacy", True),
        (None, False, "native", False),
    ],
)
def test_a_server_is_asked_for_its_dialect_only_where_nothing_tells(
    tmp_path, monkeypatch, dialect, bootstrap, answer, panda
):
    questions: list[str] = []
    monkeypatch.setattr(start, "detect_dialect", lambda url, trust: questions.append(url) or answer)
    more = () if dialect is None else ("--dialect", dialect)
    env = {"AILURUS_BOOTSTRAP_FILE": "/b"} if bootstrap else {}
    options = options_of(tmp_path, *more, **env)
    who = m.Register(instance="i", queue="q", total=Room(cores=1))
    made = start._link(options, lambda **_: "t", who)
    assert isinstance(made.client, PandaClient) is panda
    assert bool(questions) is (answer is not None)


# storage ------------------------------------------------------------------------------------------


def test_a_transfer_is_made_when_a_job_first_needs_it(tmp_path, monkeypatch):
    loads: list[str] = []
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind, name: loads.append(name) or load(kind, name))
    storage = tmp_path / "data"
    options = options_of(tmp_path, "--storage", str(storage))
    transfers = start._transfers(Site(storage=Storage(roots=(str(storage),))), options)
    assert not storage.exists()
    assert transfers("file") is transfers("file")
    assert storage.is_dir()
    assert loads == ["file"]


def test_a_scheme_without_a_plugin_fails_the_job_and_not_the_pilot(tmp_path):
    transfers = start._transfers(Site(), options_of(tmp_path))
    with pytest.raises(JobError) as error:
        transfers("gopher")
    assert error.value.code is Code.NO_PROTOCOL


def test_a_storage_that_cannot_be_made_or_used_fails_the_job(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    options = options_of(tmp_path, "--storage", str(tmp_path / "file" / "data"))
    with pytest.raises(JobError, match="cannot make the storage directory"):
        start._transfers(Site(), options)("file")

    def unusable(**_: object) -> None:
        raise AilurusError("no", remedy="mend it")

    monkeypatch.setattr(plugins, "load", lambda kind, name: unusable)
    with pytest.raises(JobError, match="the site's storage cannot be used: no"):
        start._transfers(Site(), options)("http")


def test_payloads_are_pinned_where_the_pilot_has_the_whole_node_and_the_site_says_so():
    cpus = (0, 1, 5)
    whole = Resources(cores=len(cpus), memory_mb=1)
    seen = Inventory(resources=whole, cpus=cpus, gpus=())
    pinned = Site(pilot=PilotChoice(pin=True))
    assert tuple(cpu.number for cpu in machine.pinned(pinned, whole, seen)) == cpus
    assert machine.pinned(Site(), whole, seen) == ()
    assert machine.pinned(pinned, Resources(cores=len(cpus) + 1), seen) == ()


def test_the_script_or_a_batch_system_says_which_of_its_jobs_a_pilot_is(monkeypatch):
    for name in ("AILURUS_BATCH_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)
    assert start._batch_id() == ""
    # As they apply one over the other: a plugin's word over what is inherited.
    for name in ("LSB_JOBID", "PBS_JOBID", "SLURM_JOB_ID", "AILURUS_BATCH_ID"):
        monkeypatch.setenv(name, f"of {name}")
        assert start._batch_id() == f"of {name}"


# the program --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "ending", "lost", "code"),
    [
        (0, "done", False, 0),
        (0, "idle_exit", False, 0),
        (0, "walltime", False, 81),
        (0, "failed", False, 78),
        (15, "preempted", False, 143),
        (15, "failed", True, 70),
    ],
)
def test_the_exit_code_says_how_it_ended(number, ending, lost, code):
    assert program.exit_code(number, ending, lost=lost) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Dismissed(Refused(m.Problem(title="no", status=401))), 68),
        (Dismissed(Refused(m.Problem(title="no", status=409))), 78),
        (Unreachable("no answer"), 71),
        (AilurusError("wrong"), 65),
        (OSError("no room"), 66),
        (KeyError("a bug"), 70),
    ],
)
def test_what_ends_a_pilot_before_it_serves_is_said_with_a_code(
    tmp_path, monkeypatch, capsys, error, code
):
    def fails(options: object, spawner: object) -> int:
        raise error

    monkeypatch.setattr(program, "_serve", fails)
    monkeypatch.setattr("pilot.process.kill.become_undumpable", lambda: None)
    monkeypatch.setattr("ailurus.logs.configure", lambda path, level: None)
    argv = ["pilot", "--url", "http://d", "-q", "q", "--log", str(tmp_path / "logs" / "log")]
    monkeypatch.setattr("sys.argv", argv)
    assert program._main(None) == code
    assert capsys.readouterr().err == f"pilot: {error}\n"
    assert (tmp_path / "logs").is_dir()


def test_a_pilot_serves_and_tells_the_edge_how_many_jobs_it_had(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def serves(options: object, site: object, spawner: object) -> Any:
        class Done:
            broken = False

            def serve(self) -> Served:
                return Served(ending=Ending.DONE, jobs=3)

        yield Done()

    monkeypatch.setattr(start, "started", serves)
    left = tmp_path / "left"
    monkeypatch.setenv("AILURUS_LEFT_FILE", str(left))
    assert program._serve(options_of(tmp_path), None) == 0
    assert left.read_bytes() == b"3\n"


def test_a_pilot_that_is_to_recover_only_does_that(tmp_path, monkeypatch):
    done: list[object] = []
    monkeypatch.setattr(start, "recover", lambda options, site, spawner: done.append(site))
    (tmp_path / "s.json").write_bytes(b'{"site": "S"}')
    more = ("--recover", "--spool", str(tmp_path / "spool"), "--site", str(tmp_path / "s.json"))
    assert program._serve(options_of(tmp_path, *more), None) == 0
    assert done == [Site(site="S")]
