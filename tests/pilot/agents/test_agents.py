"""Agents as processes: what runs there, and what is left when something dies."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from pilot.agents import messages as a
from pilot.agents.lease import LeaseTerms
from pilot.agents.link import Stranger
from pilot.node_ports import WINDOW, Finish, Task
from pilot.ports import JobError
from pilot.process.spawner import GuardedSpawner
from pilot.samples import Sampled
from tests.pilot.agents.cluster import Cluster, Run, cluster, order
from tests.pilot.helpers import guarded, processes_with
from tests.rig.waiting import until

SHORT = LeaseTerms(beat_s=0.2, lease_s=0.8, margin_s=0.5)


@pytest.fixture(scope="module")
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


@pytest.fixture
def nodes(tmp_path: Path, spawner: GuardedSpawner) -> Iterator[Cluster]:
    with cluster(tmp_path, spawner) as made:
        yield made


@pytest.fixture
def hasty(tmp_path: Path, spawner: GuardedSpawner) -> Iterator[Cluster]:
    """With a short lease."""
    with cluster(tmp_path, spawner, SHORT) as made:
        yield made


def test_a_payload_runs_on_another_node_as_on_this_one(nodes):
    node = nodes.agent("n1")
    run = Run(node, order(node, nodes.shared, "echo $PWD; echo oops >&2; exit 3"))
    end = run.ended()
    assert end.process.exit_code == 3
    assert end.explain().ran
    assert (nodes.shared / "stdout").read_text() == f"{nodes.shared}\n"
    assert (nodes.shared / "stderr").read_text() == "oops\n"


def test_an_agent_that_has_nothing_to_report_loads_no_structlog(nodes):
    """It would be a fifth of its memory."""
    nodes.launch("n1", PYTHONPROFILEIMPORTTIME="1")
    agent = until(lambda: nodes.nodes.get("n1"))
    Run(agent, order(agent, nodes.shared, "true")).ended()
    imported = nodes.log.read_text()
    assert "pilot.agents.agent" in imported
    assert "structlog" not in imported


def test_an_agent_tells_what_its_node_has(nodes):
    nodes.agent("n1")
    joined = nodes.joined["n1"]
    assert joined.resources.cores == len(os.sched_getaffinity(0)) == len(joined.cpus)
    assert Path(joined.scratch).parent == nodes.scratch


def test_the_tmp_of_an_attempt_lies_on_its_node_until_the_attempt_is_over(nodes):
    node = nodes.agent("n1")
    wanted = order(node, nodes.shared, "true")
    Run(node, wanted).ended()
    tmp = Path(wanted.box.tmp)
    assert tmp.parent.parent == Path(nodes.joined["n1"].scratch)
    assert tmp.is_dir()
    node.clear("1.1")
    until(lambda: not tmp.parent.exists())


def test_a_signal_reaches_the_payload(nodes):
    node = nodes.agent("n1")
    run = Run(node, order(node, nodes.shared, "trap 'exit 7' TERM; echo up; sleep 60 & wait"))
    until(lambda: (nodes.shared / "stdout").exists() and (nodes.shared / "stdout").read_text())
    node.signal(run.key, signal.SIGTERM)
    assert run.ended().process.exit_code == 7


def test_a_program_that_is_not_there_is_told_as_such(nodes):
    node = nodes.agent("n1")
    wanted = order(node, nodes.shared, "true")
    from msgspec.structs import replace

    end = Run(node, replace(wanted, argv=["/does/not/exist"])).ended()
    assert end.process.errno
    assert not end.explain().runtime


def test_output_is_streamed_in_order_and_waits_for_its_reader(nodes):
    node = nodes.agent("n1")
    came: list[tuple[int, bytes]] = []
    size = 5 * WINDOW
    command = f"head -c {size} /dev/zero; echo end >&2"
    run = Run(node, order(node, nodes.shared, command), lambda *news: came.append(news))
    until(lambda: sum(len(data) for _, data in came) == WINDOW)
    assert not run.over.wait(0.2)
    taken = WINDOW
    while not run.over.wait(0.01):
        node.credit(run.key, taken)
        taken = WINDOW
    assert run.ended().process.exit_code == 0
    assert sum(len(data) for stream, data in came if stream == 1) == size
    assert b"".join(data for stream, data in came if stream == 2) == b"end\n"


def test_a_directory_that_cannot_be_made_costs_its_own_payload_alone(nodes):
    node = nodes.agent("n1")
    Path(nodes.joined["n1"].scratch, "1.1").touch()
    node.watch("1.1", Sampled(memory_kb=100, directory=str(nodes.shared)))
    end = Run(node, order(node, nodes.shared, "true")).ended()
    assert end.explain().error is not None
    assert Run(node, order(node, nodes.shared, "true", "1.2")).ended().process.exit_code == 0


def test_it_is_told_when_nothing_of_a_payload_runs_there_any_more(nodes):
    node = nodes.agent("n1")
    node.watch("1.1", Sampled(memory_kb=1 << 20, directory=str(nodes.shared)))
    run = Run(node, order(node, nodes.shared, "sleep 60"))
    until(lambda: [one.key for one in node.samples(0.0) or ()] == ["1.1"])
    node.signal(run.key, signal.SIGKILL)
    run.ended()
    until(lambda: node.samples(0.0) == [])


def test_many_processes_with_long_words_are_started_at_once(nodes):
    """72 MB: more than a message may have."""
    node = nodes.agent("n1")
    box = node.stand(order(node, nodes.shared, "true"), lambda: None)
    words = ["/bin/true", *["x" * 130_000] * 14]
    tasks = [Task(words, {"AILURUS_ATTEMPT": f"1.1.{nr}.1"}, seat=nr) for nr in range(1, 41)]
    ends: list[Finish] = []
    box.start_all([(task, ends.append) for task in tasks])
    until(lambda: len(ends) == len(tasks))
    assert {(end.process.exit_code, end.process.errno) for end in ends} == {(0, 0)}
    assert not nodes.left


def test_a_job_that_is_stopped_waits_for_no_box_and_its_agent_makes_none(nodes, monkeypatch):
    node = nodes.agent("n1")
    sent, send = [], node._wire.send

    def noted(*messages):
        sent.extend(one for one in messages if isinstance(one, a.Stand | a.CloseBox))
        if not isinstance(messages[0], a.Stand):
            send(*messages)

    monkeypatch.setattr(node._wire, "send", noted)

    def stopped():
        raise JobError(Code.KILLED_BY_SERVER, "stop")

    with pytest.raises(JobError, match="stop"):
        node.stand(order(node, nodes.shared, "true"), stopped)
    assert sent == [a.Stand(sent[0].ticket, sent[0].order), a.CloseBox(sent[0].ticket)]


def test_nothing_is_left_of_a_cluster_that_ended(tmp_path, spawner):
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    with cluster(tmp_path, spawner) as made:
        node = made.agent("n1")
        run = Run(node, order(node, made.shared, f"setsid sleep 99 & echo {mark}; sleep 98", mark))
        until(lambda: processes_with(mark))
    assert run.ended().explain().error.code is Code.LOST_HEARTBEAT
    assert processes_with(mark) == []
    assert list(made.scratch.iterdir()) == []
    assert made.agents["n1"].returncode == 0


@pytest.mark.parametrize("victim", ["agent", "guardian", "stopped"])
def test_whatever_dies_on_a_node_nothing_of_it_is_left_and_its_payloads_are_lost_once(
    hasty, victim
):
    node = hasty.agent("n1")
    mark = f"mark-{os.getpid()}-{hasty.directory.name}"
    run = Run(node, order(node, hasty.shared, "setsid sleep 99 & sleep 98", mark))
    until(lambda: len(processes_with(mark)) >= 3)
    agent = hasty.agents["n1"]
    if victim == "agent":
        agent.kill()
    elif victim == "guardian":
        os.kill(_guardian(agent.pid), signal.SIGKILL)
    else:
        agent.send_signal(signal.SIGSTOP)
    found = run.ended().explain()
    assert found.error is None or found.error.transient
    until(lambda: processes_with(mark) == [], 10)
    until(lambda: [name for name, _ in hasty.left] == ["n1"])
    until(lambda: list(hasty.scratch.iterdir()) == [], 10)
    with pytest.raises(JobError, match="was lost"):
        node.start(order(node, hasty.shared, "true"), run.ends.append)
    # Another agent may come in its place.
    fresh = hasty.agent("n1")
    assert Run(fresh, order(fresh, hasty.shared, "true")).ended().process.exit_code == 0


def _guardian(pid: int) -> int:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return int(text.split()[0])


def test_an_agent_whose_pilot_is_silent_kills_its_payloads_before_they_are_given_out_again(hasty):
    node = hasty.agent("n1")
    mark = f"mark-{os.getpid()}-{hasty.directory.name}"
    run = Run(node, order(node, hasty.shared, "sleep 98", mark))
    until(lambda: processes_with(mark))
    # As a network that loses what both say: neither hears of the other's end.
    dropped = threading.Event()
    heard = hasty.head._heard

    def deaf(fd, peer, wire, message):
        if not dropped.is_set():
            heard(fd, peer, wire, message)

    hasty.head._heard = deaf
    dropped.set()
    until(lambda: run.over.is_set() or processes_with(mark) == [])
    assert processes_with(mark) == []
    assert run.ended().explain().error.code is Code.LOST_HEARTBEAT
    assert hasty.agents["n1"].wait(10) == 0


@pytest.mark.parametrize("failure", [OSError(110, "Connection timed out"), Stranger("changed")])
def test_a_connection_that_fails_takes_the_slots_at_once_and_the_payloads_when_the_lease_is_over(
    hasty, failure, monkeypatch
):
    node = hasty.agent("n1")
    run = Run(node, order(node, hasty.shared, "sleep 98"))
    (peer,) = hasty.head._peers.values()
    until(lambda: peer.lease.number > 0)

    def receive() -> None:
        raise failure

    monkeypatch.setattr(peer.wire, "receive", receive)
    until(lambda: hasty.left)
    assert not run.over.is_set()
    # Nobody else is let in for the node meanwhile.
    assert "n1" in hasty.head._present
    end = run.ended()
    assert end.explain().error.code is Code.LOST_HEARTBEAT
    assert end.process.at >= peer.lease.until


def test_a_message_that_the_pilot_fails_at_costs_its_agent_alone(hasty, monkeypatch, caplog):
    first, second = hasty.agent("n1"), hasty.agent("n2")
    runs = [Run(node, order(node, hasty.shared, "sleep 98")) for node in (first, second)]

    def failing(*_: object) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr(first, "heard", failing)
    # Nor does one that cannot take the loss keep it from others.
    monkeypatch.setattr(hasty, "losing", failing)
    first.signal(runs[0].key, signal.SIGKILL)
    assert runs[0].ended().explain().error.code is Code.LOST_HEARTBEAT
    until(lambda: hasty.agents["n1"].poll() is not None)
    assert not hasty.left[1:]
    assert not runs[1].over.is_set()
    second.signal(runs[1].key, signal.SIGKILL)
    assert runs[1].ended().process.exit_code == -signal.SIGKILL
    errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert len(errors) == 2
    assert all("Traceback" in text and "of ours" in text for text in errors)


def test_an_end_that_cannot_be_taken_keeps_no_other_from_being_told(hasty):
    node = hasty.agent("n1")

    def failing(_: object) -> None:
        raise KeyError("of ours")

    node.start(order(node, hasty.shared, "sleep 98"), failing)
    run = Run(node, order(node, hasty.shared, "sleep 98", "1.2"))
    hasty.agents["n1"].kill()
    assert run.ended().explain().error.code is Code.LOST_HEARTBEAT


def test_who_has_another_key_is_turned_away_and_costs_the_others_nothing(nodes, tmp_path):
    node = nodes.agent("n1")
    wrong = tmp_path / "wrong"
    wrong.write_text("ab" * 32)
    wrong.chmod(0o600)
    stranger = nodes.launch("n2", key_file=wrong)
    assert stranger.wait(10) == 68
    assert Run(node, order(node, nodes.shared, "true")).ended().process.exit_code == 0


def test_strangers_that_flood_the_port_keep_nobody_out(nodes):
    host, _, port = nodes.head.at.rpartition(":")
    made = [socket.create_connection((host, int(port))) for _ in range(150)]
    for number, link in enumerate(made):
        try:
            link.send(b"x" * 5000 if number % 2 else b"ailurus2")
        except OSError:
            continue
    node = nodes.agent("n1")
    assert len(nodes.head._strangers) <= 2 * 2 + 16 + 1
    assert Run(node, order(node, nodes.shared, "true")).ended().process.exit_code == 0
    for link in made:
        link.close()


def test_a_node_has_one_agent_and_a_stranger_to_the_allocation_none(nodes):
    nodes.agent("n1")
    first = nodes.agents["n1"]
    assert nodes.launch("n1").wait(10) == 0
    assert first.poll() is None
    nodes.agents["n1"] = first
    assert nodes.launch("n9").wait(10) == 0
    assert set(nodes.nodes) == {"n1"}


def test_a_node_that_does_not_see_the_work_directory_is_refused_with_that_sentence(nodes):
    (nodes.shared / "probe").write_text("another directory of this name")
    agent = nodes.launch("n1")
    assert agent.wait(10) == 65
    assert "does not see" in nodes.log.read_text()
    assert nodes.nodes == {}


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_key_that_others_may_read_is_not_used(nodes, mode):
    nodes.key_file.chmod(mode)
    assert nodes.launch("n1").wait(10) == 65
