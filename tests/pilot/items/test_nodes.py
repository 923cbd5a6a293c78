"""Items of a job on several nodes of agents: one box a node, and what a lost one costs."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.messages import CredentialKind
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.resources import Resources
from pilot.agents.lease import LeaseTerms
from pilot.agents.remote import RemoteNode, lost
from pilot.attempt import Attempt, killed_by_server
from pilot.clock import SYSTEM
from pilot.node.local import LocalNode
from pilot.node.shares import Slot
from pilot.node.supervisor import Supervisor
from pilot.node_ports import Order, Standing
from pilot.ports import Check, JobError
from pilot.process.spawner import GuardedSpawner
from pilot.run import Outcome, run
from pilot.site import ContainerChoice, Limits, Site, bounds_of
from pilot.workdir import Workdir
from tests.pilot.agents.cluster import Cluster
from tests.pilot.attempts import attempt_of
from tests.pilot.helpers import guarded, processes_with
from tests.rig.waiting import until

NAMES = ("n1", "n2")
# Other tests, which run at the same time, have jobs of their own.
JOB = (os.getpid(), 1)
NAME = f"{JOB[0]}.{JOB[1]}"
MARK = f"AILURUS_ATTEMPT={NAME}."
SHORT = LeaseTerms(beat_s=0.2, lease_s=0.8, margin_s=0.5)


@pytest.fixture(scope="module")
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


class Queue:
    """Gives a job's items, and those that were lost once more."""

    heartbeat_s = 0.2

    def __init__(self, items: Sequence[ItemSpec]) -> None:
        self._items = items
        self._waiting = deque((index, 1) for index in range(len(items)))
        self._left = len(items)
        self.ends: list[m.ItemEnd] = []
        self.pieces: list[m.LogPiece] = []

    def show(self, pieces: m.LogPieces) -> None:
        self.pieces += pieces.pieces

    def exchange(self, attempt: Attempt, request: m.ItemsRequest) -> m.ItemsAnswer:
        for end in request.ended:
            self.ends.append(end)
            if end.outcome is ItemOutcome.LOST:
                self._waiting.append((end.index, end.attempt + 1))
            else:
                self._left -= 1
        count = min(request.count, len(self._waiting))
        given = [self._waiting.popleft() for _ in range(count)]
        leases = tuple(
            m.ItemLease(index=index, attempt=number, spec=self._items[index])
            for index, number in given
        )
        return m.ItemsAnswer(items=leases, waiting=len(self._waiting), settled=not self._left)

    def outcomes(self) -> Counter[str]:
        return Counter(str(end.outcome) for end in self.ends)


def _never(attempt: Attempt, *_: object) -> None:
    """Bring an input that does not come before its job is stopped."""
    attempt.stopped_within(20)
    attempt.note("not brought")
    attempt.check()


class Job:
    """A job of two cores on each of the nodes, which runs in a thread of its own."""

    def __init__(
        self,
        cluster: Cluster,
        spawner: GuardedSpawner,
        items: Sequence[ItemSpec],
        secrets: Sequence[str],
    ) -> None:
        """`secrets`: of the credential that it is granted, in turn."""
        for name in NAMES:
            cluster.launch(name)
        until(lambda: len(cluster.nodes) == len(NAMES))
        self.cluster, self.queue = cluster, Queue(items)
        cluster.losing = lambda name, why: self.attempt.lose(name, lost(name, why))
        self.work = Workdir(cluster.shared / NAME)
        self.work.make()
        nodes = {**cluster.nodes, "": LocalNode(cluster.nodes["n1"].container, spawner)}
        self.attempt = attempt_of(
            of=JOB,
            nodes=2,
            cores=2,
            memory_mb=200,
            payloads=Payloads(list="list", count=len(items)),
        )
        granted = deque(
            (m.Credential(name="t", kind=CredentialKind.TOKEN, secret=secret, payload=True),)
            for secret in secrets
        )
        if granted:
            self.attempt.credentials = granted.popleft()
        kit: Any = SimpleNamespace(
            node=nodes[""],
            nodes=nodes,
            host="here",
            clock=SYSTEM,
            leases=self.queue,
            stage=SimpleNamespace(bring=_never, allowed=lambda *_: None, takes=lambda *_: True),
            reporter=SimpleNamespace(watches=lambda _: True),
            delegation=SimpleNamespace(
                renew=lambda attempt: None,
                next_look_s=lambda _: 0.2 if granted else 60.0,
                fetch=lambda _: granted.popleft(),
            ),
            journal=SimpleNamespace(path=cluster.directory / "journal"),
            supervisor=Supervisor(bounds_of(Limits()), nodes),
            slots=SimpleNamespace(growing=self._growing),
        )
        self.gained: Callable[[Slot], None]
        self.nodes = nodes
        need = Resources(cores=2, memory_mb=200)
        placement = tuple(Slot(need, node=name) for name in NAMES)
        self.outcome: Outcome | None = None

        def main() -> None:
            self.outcome = run(self.attempt, self.work, placement, kit)

        self.thread = threading.Thread(target=main, daemon=True)
        self.thread.start()

    @contextmanager
    def _growing(self, _: Attempt, most: int, gained: Callable[[Slot], None]) -> Iterator[None]:
        assert most == len(NAMES)
        self.gained = gained
        yield

    def comes_back(self, name: str) -> None:
        """A node that was lost has an agent again."""
        until(lambda: [one for one, _ in self.cluster.left] == [name])
        self.nodes[name] = self.cluster.agent(name)
        self.gained(Slot(Resources(cores=2, memory_mb=200), node=name))

    def ended(self, seconds: float = 20.0) -> Outcome:
        self.thread.join(seconds)
        assert self.outcome is not None
        return self.outcome


@pytest.fixture
def job(tmp_path: Path, spawner: GuardedSpawner) -> Iterator[Callable[..., Job]]:
    made: list[Cluster] = []

    def start(items: Sequence[ItemSpec], runtime: str = "bare", secrets: Sequence[str] = ()) -> Job:
        site = Site(container=ContainerChoice(default=runtime, bare=runtime == "bare"))
        cluster = Cluster(tmp_path, spawner, NAMES, SHORT, site)
        made.append(cluster)
        return Job(cluster, spawner, items, secrets)

    yield start
    for cluster in made:
        cluster.end()


@pytest.mark.parametrize("runtime", ["bare", "bubblewrap"])
def test_items_run_in_one_box_on_each_node_and_all_that_they_say_arrives(job, runtime):
    items = [ItemSpec(command=f"echo {index}; echo oops >&2; sleep 0.05") for index in range(40)]
    items.append(ItemSpec(command="head -c 3000 /dev/zero | tr '\\0' x; exit 3"))
    done = job(items, runtime)
    assert done.ended().error is None
    ends = sorted(done.queue.ends, key=lambda end: end.index)
    assert [end.stdout_tail for end in ends[:-1]] == [f"{index}\n" for index in range(40)]
    assert {end.stderr_tail for end in ends[:-1]} == {"oops\n"}
    assert {end.host for end in ends} == {*NAMES}
    assert done.attempt.host == "n1"
    assert (ends[-1].exit_code, ends[-1].stdout_tail) == (3, "x" * 2000)
    out = done.work.stdout.read_text()
    assert out.count("--- item") == 41
    assert "x" * 3000 in out


def asked_first(monkeypatch: pytest.MonkeyPatch, stand: Callable[..., Standing]) -> None:
    """Let a box begin to stand, by `stand`, once the job has asked for items."""
    asked, exchange = threading.Event(), Queue.exchange

    def noted(queue: Queue, attempt: Attempt, request: m.ItemsRequest) -> m.ItemsAnswer:
        asked.set()
        return exchange(queue, attempt, request)

    def late(node: RemoteNode, order: Order, check: Check) -> Standing:
        assert asked.wait(10)
        return stand(node, order, check)

    monkeypatch.setattr(Queue, "exchange", noted)
    monkeypatch.setattr(RemoteNode, "stand", late)


def test_the_first_items_are_asked_for_while_boxes_come_to_stand(job, monkeypatch):
    asked_first(monkeypatch, RemoteNode.stand)
    done = job([ItemSpec(command="true")] * 4)
    assert done.ended().error is None
    assert done.queue.outcomes() == {"finished": 4}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_of_items_that_came_to_a_job_without_a_box_nothing_is_told(job, monkeypatch):
    def none(*_: object) -> Standing:
        raise JobError(Code.CONTAINER_FAILED, "no box")

    asked_first(monkeypatch, none)
    done = job([ItemSpec(command="true")] * 4)
    done.thread.join(20)
    assert not done.thread.is_alive()
    # They are the next attempt's.
    assert (done.queue.ends, done.attempt.untold) == ([], ())


def test_an_item_is_held_to_its_own_memory_on_any_node_and_what_it_leaves_is_found(job):
    eats = "python3 -c 'import time; x = b\"x\" * (90 << 20); time.sleep(60)'"
    leaves = ItemSpec(command="echo >left_0", outputs=(OutputFile(name="left_0", url="file:///s"),))
    done = job([leaves, *[ItemSpec(command=f"({eats}); exit 7", memory_mb=40)] * 2])
    assert done.ended().error is None
    ends = {end.index: end for end in done.queue.ends}
    assert [ends[index].code for index in range(3)] == [0, Code.OVER_MEMORY, Code.OVER_MEMORY]
    assert "it asked for 40 MB" in ends[2].diagnosis
    assert done.attempt.of_items == {"left_0": 0}
    assert [file.name for file in done.attempt.spec.outputs] == ["left_0"]


@pytest.mark.parametrize("runtime", ["bare", "bubblewrap"])
def test_a_node_that_is_lost_costs_the_attempts_of_its_items_and_the_others_go_on(job, runtime):
    items = [ItemSpec(command="sleep 0.4") for _ in range(12)]
    running = job(items, runtime)
    until(lambda: len(processes_with(MARK)) >= 4)
    running.cluster.agents["n2"].kill()
    assert running.ended().error is None
    found = running.queue.outcomes()
    assert found == {"finished": 12, "lost": 2}
    again = [end for end in running.queue.ends if end.attempt == 2]
    assert {end.host for end in again} == {"n1"}


@pytest.mark.parametrize("runtime", ["bare", "bubblewrap"])
def test_a_node_that_comes_back_runs_items_of_the_job_again(job, runtime):
    running = job([ItemSpec(command="until test -e go; do sleep 0.05; done")] * 8, runtime)
    until(lambda: len(processes_with(MARK)) >= 4)
    running.cluster.agents["n2"].kill()
    until(lambda: running.queue.outcomes()["lost"] == 2)
    running.comes_back("n2")
    agent = running.cluster.agents["n2"].pid
    until(lambda: sum(_descends(pid, agent) for pid in processes_with(MARK)) >= 2)
    Path(running.work.directory, "go").touch()
    assert running.ended().error is None
    assert running.queue.outcomes() == {"finished": 8, "lost": 2}
    assert {end.host for end in running.queue.ends if end.outcome == "finished"} == {*NAMES}
    scratch = Path(running.cluster.joined["n2"].scratch)
    until(lambda: not (scratch / NAME).exists())


def test_a_job_that_ends_while_a_node_comes_back_waits_for_no_box_there(job):
    running = job([ItemSpec(command="until test -e go; do sleep 0.05; done")] * 4, "bubblewrap")
    until(lambda: len(processes_with(MARK)) >= 2)
    running.cluster.agents["n2"].kill()
    until(lambda: running.queue.outcomes()["lost"])
    running.comes_back("n2")
    Path(running.work.directory, "go").touch()
    assert running.ended().error is None
    until(lambda: not Path(running.cluster.joined["n2"].scratch, NAME).exists())
    until(lambda: not processes_with(MARK))


def test_what_an_agent_kills_when_it_ends_is_lost_and_has_not_failed(job):
    running = job([ItemSpec(command="case $AILURUS_ATTEMPT in *.0.1) sleep 61.25; esac")])
    (pid,) = until(lambda: processes_with("sleep\0" + "61.25"))
    node = next(name for name in NAMES if _descends(pid, running.cluster.agents[name].pid))
    running.cluster.agents[node].terminate()
    assert running.ended().error is None
    assert running.queue.outcomes() == {"lost": 1, "finished": 1}


def _descends(pid: int, from_pid: int) -> bool:
    while pid not in (0, 1, from_pid):
        try:
            text = Path(f"/proc/{pid}/stat").read_text("utf-8")
        except OSError:
            return False
        pid = int(text.rpartition(") ")[2].split()[1])
    return pid == from_pid


def test_a_job_ends_with_the_last_of_its_nodes(job):
    running = job([ItemSpec(command="sleep 60") for _ in range(4)])
    until(lambda: len(processes_with(MARK)) >= 4)
    for name in NAMES:
        running.cluster.agents[name].kill()
    error = running.ended().error
    assert error is not None
    assert (error.code, error.transient) == (Code.LOST_HEARTBEAT, True)
    assert {str(end.outcome) for end in running.attempt.untold} <= {"lost"}
    until(lambda: not processes_with(MARK))


def test_a_job_that_is_stopped_leaves_nothing_on_any_node(job):
    running = job([ItemSpec(command="setsid sleep 60 & sleep 60") for _ in range(4)], "bubblewrap")
    until(lambda: len(processes_with(MARK)) >= 4)
    running.attempt.stop(killed_by_server())
    assert running.ended().error is not None
    assert not processes_with(MARK)


def test_an_item_has_not_failed_since_its_job_was_stopped_before_its_input_came(job):
    file = InputFile(name="in", url="file:///s/in")
    running = job([ItemSpec(command="trap '' TERM; sleep 60"), ItemSpec(inputs=(file,))])
    until(lambda: processes_with(MARK))
    running.attempt.stop(killed_by_server(), grace_s=60.0)
    until(lambda: "not brought" in " ".join(running.attempt.notes))
    running.attempt.kill()
    assert running.ended().error is not None
    assert [end.index for end in running.attempt.untold] == [0]


def test_credentials_are_renewed_on_all_nodes_while_items_run(job):
    item = ItemSpec(command='until grep new "$BEARER_TOKEN_FILE"; do sleep 0.05; done')
    running = job([item] * 4, "bubblewrap", ("old", "new"))
    assert running.ended().error is None
    assert {end.stdout_tail for end in running.queue.ends} == {"new\n"}
    assert {end.host for end in running.queue.ends} == {*NAMES}


def test_what_a_long_item_writes_is_shown_while_it_runs_on_any_node(job):
    say = "echo first; until test -e go; do sleep 0.05; done; echo last"
    running = job([ItemSpec(command=say)] * 4 + [ItemSpec(command="echo short")], "bubblewrap")
    until(lambda: len(running.queue.pieces) == 4, 10)
    assert {one.text for one in running.queue.pieces} == {"first\n"}
    assert not any(one.final for one in running.queue.pieces)
    Path(running.work.directory, "go").touch()
    assert running.ended().error is None
    first, last = running.queue.pieces[:4], running.queue.pieces[4:]
    assert {one.item for one in first} == {one.item for one in last} == {0, 1, 2, 3}
    assert {(one.offset, one.text, one.final) for one in last} == {(6, "last\n", True)}
