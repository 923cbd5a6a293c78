"""pilot-rsh: commands on other nodes of a job, as ssh would run them, whatever a payload does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ailurus.logs import Log
from ailurus.loops import Loops
from pilot.rsh import doors
from pilot.rsh.doors import Doors
from pilot.rsh.exchange import Asked, Finished, Output, Signalled, Taken
from tests.pilot.helpers import processes_with
from tests.pilot.rsh.rig import PILOT_RSH, SIGNALS, Cluster, cluster
from tests.rig.waiting import until

SHELLS = {"dash": ["/bin/dash"], "busybox": ["/bin/busybox", "sh"], "bash": ["/bin/bash"]}


@pytest.fixture(params=SHELLS)
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    shell = SHELLS[request.param]
    if not os.access(shell[0], os.X_OK):
        pytest.skip(f"{shell[0]} is missing")
    with cluster(tmp_path, shell=shell) as made:
        yield made


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        yield made


def ran(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_it_runs_a_command_there_and_passes_on_all_that_comes_of_it(any_shell: Cluster) -> None:
    process = any_shell.rsh("q2", "echo out from $ON; echo err from $ON >&2; exit 7")
    assert ran(process) == (7, b"out from q2\n", b"err from q2\n")


@pytest.mark.parametrize(
    "words",
    [
        ("q3", "echo", "$ON"),
        ("-x", "-o", "BatchMode=yes", "-oStrictHostKeyChecking=no", "q3", "echo $ON"),
        ("-p", "22", "q3", "-p", "22", "-i", "/key", "-n", "echo $ON"),
        ("somebody@q3", "echo $ON"),
        ("-l", "somebody", "--", "q3", "echo $ON"),
    ],
)
def test_it_takes_what_callers_say_to_ssh(nodes: Cluster, words: tuple[str, ...]) -> None:
    assert ran(nodes.rsh(*words)) == (0, b"q3\n", b"")


def test_words_are_put_together_as_ssh_does(any_shell: Cluster) -> None:
    """One word or many, and the shell there takes them apart again; options of the command stay."""
    words = ('echo "a  b"', "'c$ON'", "-x", "-p", "\\';", "echo", "é")
    assert ran(any_shell.rsh("q2", *words)) == (0, "a  b c$ON -x -p '\né\n".encode(), b"")


def test_a_command_of_100_kb_arrives_whole(any_shell: Cluster) -> None:
    text = "x" * 100_000
    assert ran(any_shell.rsh("q2", f"printf %s {text} | wc -c")) == (0, b"100000\n", b"")


def test_one_that_no_shell_takes_is_refused_and_says_so(nodes: Cluster) -> None:
    words = [f"echo {'x' * 70_000}"] * 2
    code, _, err = ran(nodes.rsh("q2", *words))
    assert code == 255
    assert b"more than 131071 bytes" in err


def test_its_output_is_bytes(any_shell: Cluster, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    assert ran(any_shell.rsh("q2", f"cat {tmp_path}/data")) == (0, data, b"")


def test_its_input_is_empty(any_shell: Cluster) -> None:
    assert ran(any_shell.rsh("q2", "cat; echo end")) == (0, b"end\n", b"")


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_go_through(any_shell: Cluster, number: signal.Signals, tmp_path: Path) -> None:
    name = number.name.removeprefix("SIG")
    command = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    process = any_shell.rsh("q2", command)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    # The shell's sleep gets it, too, and the shell may say so.
    assert ran(process)[:2] == (9, f"got {name}\n".encode())


def test_a_killed_one_takes_its_command_with_it(any_shell: Cluster, tmp_path: Path) -> None:
    process = any_shell.rsh("q2", f"echo ready; sleep 4321 & sleep 4321; : {tmp_path}")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert processes_with(f": {tmp_path}")
    process.kill()
    process.communicate(timeout=30)
    until(lambda: not processes_with(f": {tmp_path}"))
    until(lambda: [*any_shell.nodes["q1"].rsh.glob("*/*")] == [])


def test_many_at_once_do_not_mix(nodes: Cluster) -> None:
    processes = [nodes.rsh(f"q{1 + n % 3}", f"echo {n} on $ON") for n in range(40)]
    for n, process in enumerate(processes):
        assert ran(process) == (0, f"{n} on q{1 + n % 3}\n".encode(), b"")


def test_a_command_may_ask_for_another(nodes: Cluster) -> None:
    """As mpirun's tree of daemons does."""
    assert ran(nodes.rsh("q2", f'{PILOT_RSH} q3 "echo \\$ON from $ON"')) == (
        0,
        b"q3 from q2\n",
        b"",
    )


def test_another_jobs_node_is_no_node_of_this(nodes: Cluster) -> None:
    code, _, err = ran(nodes.rsh("q4", "true"))
    assert code == 255
    assert err == b"pilot-rsh: no node of this job is called 'q4': it has q1, q2, q3\n"


def test_a_command_is_held_up_while_nobody_reads_what_it_writes(nodes: Cluster) -> None:
    process = nodes.rsh("q2", "cat /dev/zero | head -c 5000000")
    until(lambda: nodes.commands and nodes.commands[0].streams[0].most_ahead > 0)
    out, _ = process.communicate(timeout=30)
    assert len(out) == 5_000_000
    # A window, and what was read when it was nearly full.
    assert nodes.commands[0].streams[0].most_ahead <= (64 << 10) + (32 << 10)


def test_a_reader_that_goes_does_not_stop_the_command(nodes: Cluster, tmp_path: Path) -> None:
    process = nodes.rsh("q2", f"head -c 1000000 /dev/zero; echo end > {tmp_path}/end")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 0
    process.stderr.close()
    assert (tmp_path / "end").exists()


def test_after_the_end_nothing_is_started(nodes: Cluster) -> None:
    nodes.exchange.close()
    code, _, err = ran(nodes.rsh("q2", "true"))
    assert (code, err) == (255, b"pilot-rsh: the job has ended\n")


def test_without_a_door_it_says_what_is_wrong(nodes: Cluster, tmp_path: Path) -> None:
    process = subprocess.run(
        [PILOT_RSH, "q2", "true"],
        env={"AILURUS_RSH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert process.returncode == 255
    assert b"the door of this node is closed" in process.stderr


class Hand:
    """A door, and a payload that makes its requests by hand."""

    def __init__(self, tmp: Path) -> None:
        self.said: list[object] = []
        self.changed = threading.Condition()
        self.made = Doors(Loops(Log("tests")))
        self.directory = tmp / "rsh"
        self.door = self.made.open(self.directory, self._hear)
        self.fifo = os.open(self.directory / "door", os.O_RDWR | os.O_NONBLOCK)

    def _hear(self, said: object) -> None:
        with self.changed:
            self.said.append(said)
            self.changed.notify_all()

    def hears(self, what: object) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: what in self.said, 10), self.said

    def taken(self) -> int:
        return sum(said.count for said in self.said if isinstance(said, Taken))

    def request(self, name: str = "1", command: str = "q2\ntrue") -> Path:
        here = self.directory / name
        here.mkdir()
        (here / "command").write_text(command)
        for fifo in ("out", "err", "answer", "control"):
            os.mkfifo(here / fifo)
        return here

    def held(self, here: Path) -> dict[str, int]:
        """All FIFOs of a request open, as pilot-rsh has them."""
        return {
            name: os.open(here / name, os.O_RDWR | os.O_NONBLOCK)
            for name in ("out", "err", "answer", "control")
        }

    def knock(self, text: bytes) -> None:
        fd = os.open(self.directory / "door", os.O_RDWR)
        os.write(fd, text)
        os.close(fd)

    def serves(self, name: str = "after") -> None:
        """It still serves whoever asks properly."""
        fds = self.held(self.request(name, f"q2\n{name}"))
        self.knock(name.encode() + b"\n")
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(isinstance(s, Asked) and s.command == name.encode() for s in self.said),
                10,
            )
        for fd in fds.values():
            os.close(fd)


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    made = Hand(tmp_path)
    yield made
    os.close(made.fifo)
    made.door.close()


@pytest.mark.parametrize(
    "knock",
    [b"\n\n\n", b"..\n", b"../../etc\n", b"/etc\n", b"no-such\n", b"\0\n", b"x" * 4000, b"\xff\n"],
)
def test_nonsense_at_the_door_does_nothing(hand: Hand, knock: bytes) -> None:
    hand.knock(knock)
    hand.knock(b"\n")
    hand.serves()
    assert [said for said in hand.said if isinstance(said, Asked)] == [
        Asked(1, "q2", b"after"),
    ]


@pytest.mark.parametrize("part", ["command", "out", "err", "control", "answer"])
@pytest.mark.parametrize("kind", ["link", "directory", "file", "absent", "device"])
def test_what_is_not_of_the_right_kind_is_not_opened(
    hand: Hand, part: str, kind: str, tmp_path: Path
) -> None:
    """A link for a FIFO, say: what it points to would be written with the pilot's rights."""
    here = hand.request()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    fds = hand.held(here)
    (here / part).unlink()
    if kind == "link":
        (here / part).symlink_to(secret)
    elif kind == "directory":
        (here / part).mkdir()
    elif kind == "device":
        (here / part).symlink_to("/dev/full")
    elif kind == "file" and part != "command":
        (here / part).write_text("x")
    elif kind == "file":
        os.mkfifo(here / part)
    hand.knock(b"1\n")
    hand.serves()
    assert [said.command for said in hand.said if isinstance(said, Asked)] == [b"after"]
    assert secret.read_text() == "secret"
    if part != "answer":
        assert os.read(fds["answer"], 100).startswith(b"no ")
    for fd in fds.values():
        os.close(fd)


def test_the_directory_of_a_request_may_be_no_link(hand: Hand, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    hand.request().rename(outside)
    (hand.directory / "1").symlink_to(outside)
    fds = hand.held(outside)
    hand.knock(b"1\n")
    hand.serves()
    assert [said.command for said in hand.said if isinstance(said, Asked)] == [b"after"]
    for fd in fds.values():
        os.close(fd)


def test_a_fifo_that_nobody_reads_costs_its_own_request_only(hand: Hand) -> None:
    fds = hand.held(hand.request())
    hand.knock(b"1\n")
    hand.hears(Asked(1, "q2", b"true"))
    hand.door.answer(Output(1, 1, b"x" * 300_000))
    hand.door.answer(Finished(1, 0))
    hand.serves()
    assert hand.taken() < 300_000
    for fd in fds.values():
        os.close(fd)
    until(lambda: hand.taken() == 300_000)


def test_ten_thousand_requests_are_served_or_refused_and_none_is_kept(hand: Hand) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
    here = hand.request()
    fds = hand.held(here)
    # An answer that finds no room is dropped; there are more of them than a FIFO has.
    fcntl.fcntl(fds["answer"], fcntl.F_SETPIPE_SZ, 1 << 20)
    for _ in range(100):
        hand.knock(b"1\n" * 100)
    with hand.changed:
        assert hand.changed.wait_for(lambda: len(hand.said) >= doors.MOST_REQUESTS, 10)
    answers = b""

    def refused() -> bool:
        nonlocal answers
        try:
            answers += os.read(fds["answer"], 1 << 16)
        except BlockingIOError:
            return False
        return answers.count(b"\n") >= 10_000

    until(refused)
    assert answers.count(b"yes\n") == doors.MOST_REQUESTS
    for fd in fds.values():
        os.close(fd)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208
    hand.serves()


def test_requests_leave_the_pilot_the_descriptors_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_descriptors", lambda: 100)
    hand = Hand(tmp_path)
    fds = hand.held(hand.request())
    hand.knock(b"1\n" * 20)
    answers = b""

    def answered() -> bool:
        nonlocal answers
        with contextlib.suppress(BlockingIOError):
            answers += os.read(fds["answer"], 1 << 16)
        return answers.count(b"\n") == 20

    until(answered)
    assert answers.count(b"yes\n") == 5
    assert b"no 5 commands run from this node already\n" in answers
    hand.door.close()
    assert hand.made.requests == 0
    for fd in fds.values():
        os.close(fd)


@contextmanager
def flood(fd: int, data: bytes) -> Iterator[threading.Event]:
    """Somebody writes to a FIFO without end, which is an event."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            try:
                os.write(fd, data)
            except BlockingIOError:
                stop.wait(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


def test_a_payload_that_writes_to_its_door_without_end_costs_little(hand: Hand) -> None:
    with flood(hand.fifo, b"no-such-name\n" * 300):
        hand.serves()


def test_names_of_no_request_are_looked_for_a_few_at_a_time(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    opened = doors.Door._open
    monkeypatch.setattr(doors.Door, "_open", lambda *how: looked.append(how) or opened(*how))
    with flood(hand.fifo, b"".join(b"%d\n" % number for number in range(100, 900))) as end:
        end.wait(0.5)
    # What one read brings may be more.
    assert 1 <= len(looked) <= doors.SIGNALS_AT_ONCE + 1 / doors.SIGNAL_S + doors._NAMES


def test_signals_without_end_are_passed_on_a_few_at_a_time(hand: Hand) -> None:
    """Each costs the node's guardian a look through processes, while other payloads wait for it."""
    fds = hand.held(hand.request())
    hand.knock(b"1\n")
    hand.hears(Asked(1, "q2", b"true"))
    with flood(fds["control"], b"TERM\n" * 600) as end:
        end.wait(0.5)
    many = [said for said in hand.said if isinstance(said, Signalled)]
    assert 1 <= len(many) <= doors.SIGNALS_AT_ONCE + 1 / doors.SIGNAL_S
    os.write(fds["control"], b"\nINT\n")
    hand.hears(Signalled(1, signal.SIGINT))
    for fd in fds.values():
        os.close(fd)


def test_a_closed_door_keeps_no_descriptor(tmp_path: Path) -> None:
    made = Doors(Loops(Log("tests")))
    made.open(tmp_path / "first", lambda said: None).close()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for n in range(10):
        made.open(tmp_path / str(n), lambda said: None).close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_door_that_rests_is_looked_at_again_however_busy_the_others_are(tmp_path: Path) -> None:
    made = Doors(Loops(Log("tests")))
    door = made.open(tmp_path / "door", lambda said: None)
    pipes = [os.pipe() for _ in range(2)]
    for _, writer in pipes:
        os.write(writer, b"!")
    (busy, _), (resting, _) = pipes
    looks: list[None] = []
    again = threading.Event()

    def look() -> None:
        looks.append(None)
        made.rest(resting)
        if len(looks) > 1:
            again.set()

    made.soon(lambda: made.watch(busy, select.EPOLLIN, lambda: None))
    made.soon(lambda: made.watch(resting, select.EPOLLIN, look))
    assert again.wait(10)
    for fd in (busy, resting):
        made.soon(lambda fd=fd: made.close(fd))  # type: ignore[misc]
    door.close()
    for _, writer in pipes:
        os.close(writer)
