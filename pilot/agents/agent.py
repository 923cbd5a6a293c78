"""`pilot --agent`: this machine as a node of a pilot on another one.

It starts, watches and kills processes, and says what became of them; it decides nothing. The link
to the pilot is all that keeps it: when that ends, or the lease does, it kills everything and ends.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ailurus import __version__, logs
from ailurus.logs import Log
from ailurus.loops import Loop, Loops
from ailurus.protocol.errors import AilurusError
from pilot.agents import messages as a
from pilot.agents import scratch_dir
from pilot.agents.boxes import Boxes, not_begun
from pilot.agents.chores import Chores, explanation, judged
from pilot.agents.key_file import read_key
from pilot.agents.lease import AgentLease
from pilot.agents.link import Handshake, Stranger
from pilot.agents.wire import Wire
from pilot.node import claims, machine, topology
from pilot.node.containers import container_of
from pilot.node.local import LocalNode, groups_of
from pilot.node.sampler import rest_s
from pilot.node.streams import Streams
from pilot.node_ports import DoorHandle, Exit
from pilot.ports import JobError
from pilot.process.kill import become_undumpable
from pilot.process.orders import boot_s
from pilot.process.spawner import GuardedSpawner
from pilot.rsh.doors import Doors
from pilot.rsh.exchange import Said
from pilot.workdir import remove_tree, scratch

START_S = 120.0
"""For an agent to join; its guardian ends it otherwise."""
CONNECT_S = 20.0
"""For the pilot to answer, and to let the agent in."""
STOPPED_S = 0.3
"""After its lease the guardian of an agent kills what that has not, as one that somebody stopped."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1)
_log = Log("agent")


def main(argv: Sequence[str], spawner: GuardedSpawner) -> int:
    """The program; its exit code says what the pilot's log cannot."""
    options = parse(argv, os.environ)
    become_undumpable()
    logs.configure()
    try:
        serve(options, spawner)
    except Stranger as error:
        return _fail(68, error)
    except AilurusError as error:
        return _fail(65, error)
    except OSError as error:
        return _fail(71, error)
    return 0


def _fail(code: int, error: Exception) -> int:
    _say(str(error))
    return code


def _say(text: str) -> None:
    """Write a line for people. A line of the log would load structlog, a fifth of an agent's
    memory: that is for what goes wrong."""
    sys.stderr.write(f"pilot: {text}\n")


def parse(argv: Sequence[str], env: Mapping[str, str]) -> AgentOptions:
    """Exits with 2 for wrong options."""
    parser = argparse.ArgumentParser(
        prog="pilot --agent",
        description="Runs payloads on this node for a pilot on another, which starts it.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--head", required=True, metavar="ADDRESS:PORT", help="where the pilot listens")
    add("--key-file", required=True, type=Path, metavar="FILE", help="has the allocation's key")
    add("-a", "--workdir", type=Path, metavar="DIR", help="on this node, for payloads' /tmp")
    given = parser.parse_args(argv)
    host, _, port = given.head.rpartition(":")
    if not host or not port.isdecimal():
        parser.error(f"--head is ADDRESS:PORT, not {given.head!r}")
    workdir = (given.workdir or scratch(env)).absolute()
    return AgentOptions(head=given.head, key_file=given.key_file, workdir=workdir)


class AgentOptions(Struct, frozen=True, kw_only=True):
    head: str
    """ADDRESS:PORT"""
    key_file: Path
    workdir: Path
    """On this node."""


class Ends(Exception):
    """Why the agent ends."""


def names(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What this node is called, the batch system's name first."""
    own = socket.gethostname()
    said = [environment.get(name, "") for name in ("SLURMD_NODENAME", "AILURUS_NODE")]
    return tuple(dict.fromkeys(name for name in (*said, own, own.partition(".")[0]) if name))


def connect(head: str, key: bytes, wake: Callable[[], None]) -> Wire:
    """A connection to the pilot at ADDRESS:PORT. Raises OSError, or Stranger."""
    host, _, port = head.rpartition(":")
    link = socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S)
    try:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake = Handshake(key, agent=True)
        link.sendall(handshake.greeting)
        while handshake.session is None:
            if not (data := link.recv(handshake.missing)):
                raise Stranger("it closed the connection")
            link.sendall(handshake.feed(data))
        return Wire(link, handshake.session, wake)
    except BaseException:
        link.close()
        raise


class Agent:
    """The loop of an agent that was let in."""

    def __init__(
        self,
        ear: Ear,
        node: LocalNode,
        directory: Path,
        lease: AgentLease,
        spawner: GuardedSpawner,
        loops: Loops,
    ) -> None:
        self._ear, self._wire, self._node, self._directory = ear, ear.wire, node, directory
        self._lease, self._spawner, self._loops = lease, spawner, loops
        # The pilot's key of a process → the node's.
        self._keys: dict[int, int] = {}
        self._doors: dict[int, DoorHandle] = {}
        # Apart, so that an image or a large directory holds up no report.
        self._images = Chores("images", loops)
        self._boxes = Boxes(node, self._wire, self._keys, loops, ear.ring)
        self._removals, self._slow = Chores("removals", loops), Chores("slow", loops)
        self._removals.add(lambda: scratch_dir.sweep(directory.parent))
        loops.thread("sampler", self._measure)

    def serve(self) -> None:
        """Do what the pilot asks. Raises Ends."""
        with self._boxes:
            while True:
                self._beat()
                for message in self._ear.hear(self._patience()):
                    self._do(message)
                self._boxes.tell()

    def _beat(self) -> None:
        at = boot_s()
        if at >= self._lease.until:
            raise Ends("the pilot was silent for the whole lease")
        if at >= self._lease.beat_at:
            for down in self._loops.down():
                raise Ends(str(down))
            self._wire.beat(a.Beat(self._lease.beat(at)))

    def _patience(self) -> float:
        return max(0.0, min(self._lease.beat_at, self._lease.until) - boot_s())

    def _do(self, message: a.ToAgent) -> None:
        if isinstance(message, a.Begin):
            self._begin(message)
        elif isinstance(message, a.Acknowledged):
            self._lease.acknowledged(message.number)
            self._spawner.until(self._lease.until + STOPPED_S, str(self._directory))
        elif isinstance(message, a.Kill):
            if (key := self._keys.get(message.key)) is not None:
                self._node.signal(key, message.number)
        elif isinstance(message, a.Credit):
            if (key := self._keys.get(message.key)) is not None:
                self._node.credit(key, message.count)
        elif isinstance(message, a.StartAll):
            self._boxes.start_all(message)
        elif isinstance(message, a.Stand):
            self._boxes.stand(message, self._own(message.order.name))
        elif isinstance(message, a.LookAt):
            self._boxes.look(message)
        elif isinstance(message, a.CloseBox):
            self._boxes.close(message.box)
        elif isinstance(message, a.Prepare):
            self._images.add(lambda: self._ready(message))
        elif isinstance(message, a.Clear):
            own = self._own(message.name)
            self._boxes.then(lambda: self._removals.add(lambda: remove_tree(own)))
        elif isinstance(message, a.WatchPayload):
            tmp = self._own(message.name) / "tmp"
            # Why it cannot be made is told when a process is to start there.
            with suppress(OSError):
                tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._node.watch(message.name, replace(message.sampled, local=(str(tmp),)))
        elif isinstance(message, a.ForgetPayload):
            name = message.name
            self._removals.add(lambda: self._node.forget(name))
        elif isinstance(message, a.OpenDoor):
            self._open_door(message)
        elif isinstance(message, a.DoorTold):
            if (door := self._doors.get(message.door)) is not None:
                door.answer(message.told)
        elif isinstance(message, a.CloseDoor):
            if (door := self._doors.pop(message.door, None)) is not None:
                door.close()
        elif isinstance(message, a.Bye):
            raise Ends("the pilot ends")

    def _begin(self, message: a.Begin) -> None:
        key, order = message.key, message.order

        def done(exit_: Exit) -> None:
            self._keys.pop(key, None)
            end = exit_.process
            if not end.exit_code and not end.errno:
                self._wire.send(a.ProcessOver(key, end))
            else:
                self._slow.add(lambda: self._explain(key, exit_))

        def output(stream: int, data: bytes) -> None:
            self._wire.send(a.Wrote(key, stream, data))

        try:
            if order.box.tmp.startswith(f"{self._directory}/"):
                Path(order.box.tmp).mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before it can have ended.
            self._keys[key] = -1
            own = self._node.start(order, done, output if message.streamed else None)
            if key in self._keys:
                self._keys[key] = own
        except (JobError, OSError) as error:
            self._keys.pop(key, None)
            self._wire.send(not_begun(key, error))

    def _open_door(self, message: a.OpenDoor) -> None:
        def tell(said: Said) -> None:
            self._wire.send(a.DoorSaid(message.door, said))

        try:
            self._doors[message.door] = self._node.door(message.directory, tell)
        except JobError as error:
            # Its payload is told so by every pilot-rsh that finds none.
            _log.warning("no_door", what=str(error))

    def _measure(self, loop: Loop) -> None:
        told = False
        while True:
            used = time.thread_time()
            samples = self._node.samples(time.monotonic())
            # That nothing runs any more is told, too, once.
            if samples or told:
                self._wire.send(a.Looked([*samples]))
            told = bool(samples)
            loop.turned(None)
            time.sleep(rest_s(time.thread_time() - used))

    def _ready(self, message: a.Prepare) -> None:
        try:
            image = self._node.prepare(message.spec, lambda: None)
        except Exception as error:  # noqa: BLE001 - a job waits for it, whatever it is
            self._wire.send(a.Prepared(message.ticket, fault=a.Fault.of(judged(error))))
        else:
            self._wire.send(a.Prepared(message.ticket, image))

    def _explain(self, key: int, exit_: Exit) -> None:
        told = a.Explained.of(explanation(exit_))
        self._wire.send(a.ProcessOver(key, exit_.process, told))

    def _own(self, name: str) -> Path:
        """What an attempt has on this node."""
        if not name or "/" in name or name.startswith("."):
            raise Ends(f"the pilot named an attempt {name!r}")
        return self._directory / name


class Ear:
    """What the pilot and the guardian say, and what rings meanwhile."""

    def __init__(self, head: str, key: bytes, spawner: GuardedSpawner) -> None:
        """Connect to the pilot at ADDRESS:PORT. Raises OSError, or Stranger. The calling thread is
        the one that hears."""
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ends = ""
        """Why the agent is to end."""
        self.wire = connect(head, key, self.ring)
        self._spawner, self._thread = spawner, threading.get_ident()
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(spawner.fileno(), select.POLLIN)

    def ring(self) -> None:
        """Have the loop look again."""
        if threading.get_ident() != self._thread:
            os.eventfd_write(self._bell, 1)

    def end(self, why: str) -> None:
        """Let the agent end. Any thread, and a signal's handler, may call this."""
        self.ends = self.ends or why
        os.eventfd_write(self._bell, 1)

    def hear(self, seconds: float) -> Iterator[a.ToAgent]:
        """What the pilot has said within `seconds`; whom the guardian's news are for is told.
        Raises Ends."""
        wanted = select.POLLIN | (select.POLLOUT if self.wire.waiting else 0)
        self._poll.register(self.wire.link, wanted)
        events = dict(self._poll.poll(max(0.0, seconds) * 1000))
        if events.pop(self._bell, 0):
            os.eventfd_read(self._bell)
        if events.pop(self._spawner.fileno(), 0) and not self._spawner.heard():
            self._spawner.gone(partial(self.end, "its guardian died"))
        if self.ends:
            raise Ends(self.ends)
        try:
            for event in events.values():
                if event & select.POLLOUT:
                    self.wire.flush()
                if event & ~select.POLLOUT:
                    if (bodies := self.wire.receive()) is None:
                        raise Ends("the pilot is gone")
                    for body in bodies:
                        yield from a.to_agent(body)
        except OSError as error:
            raise Ends(f"the pilot is gone: {error.strerror}") from None

    def welcome(self) -> a.Welcome:
        """The pilot's first word. Raises Ends."""
        deadline = boot_s() + CONNECT_S
        while (left := deadline - boot_s()) > 0:
            for message in self.hear(left):
                if isinstance(message, a.Welcome):
                    return message
                raise Ends(message.why if isinstance(message, a.TurnedAway) else "no welcome")
        raise Ends(f"the pilot said nothing within {CONNECT_S:.0f} s")


def serve(options: AgentOptions, spawner: GuardedSpawner) -> None:
    """Be the agent until the pilot or the lease ends it; then nothing of it is left. Raises
    AilurusError for a key that cannot be had or a pilot that has another one, OSError if the pilot
    is not there or the directory cannot be made."""
    ear = Ear(options.head, read_key(options.key_file), spawner)
    for number in SIGNALS:
        signal.signal(number, lambda number, _: ear.end(f"got {signal.Signals(number).name}"))
    directory, lock = scratch_dir.make(options.workdir)
    spawner.until(boot_s() + START_S, str(directory))
    held, node = claims.NONE, None
    try:
        ear.wire.send(a.Arrived(names(os.environ), __version__))
        welcome = ear.welcome()
        _say(f"the agent of {welcome.name} has come to the pilot at {options.head}")
        try:
            loops = Loops(_log, on_failure=ear.ring)
            node, joined, held = _made(welcome, directory, spawner, loops)
        except (AilurusError, OSError) as error:
            ear.wire.send(a.Unfit(str(error)))
            raise
        lease = AgentLease(welcome.terms, boot_s())
        ear.wire.send(joined)
        spawner.until(lease.until + STOPPED_S, str(directory))
        Agent(ear, node, directory, lease, spawner, loops).serve()
    except Ends as why:
        _say(f"the agent ends: {why}")
    finally:
        # First the payloads: that is what the lease is about.
        spawner.close()
        ear.wire.close()
        held.close()
        if node is not None:
            node.close()
        remove_tree(directory)
        os.close(lock)


def _made(
    welcome: a.Welcome, directory: Path, spawner: GuardedSpawner, loops: Loops
) -> tuple[LocalNode, a.Joined, claims.Claims]:
    """The node, and what it has. Raises AilurusError for one that can run nothing."""
    path, text = welcome.probe
    try:
        seen = Path(path).read_text("ascii") == text
    except (OSError, ValueError):
        seen = False
    if not seen:
        raise AilurusError(
            f"{welcome.name} does not see {Path(path).parent}, the pilot's work directory",
            remedy="give the pilot a --workdir on a file system that all nodes share",
        )
    container = container_of(welcome.site, directory, spawner, str(Path(path).parent))
    found = machine.look(directory, mps=welcome.site.pilot.gpus.mps)
    held = claims.claim(found.gpus, welcome.gpus)
    groups = groups_of(welcome.site, directory.name.rpartition("-")[2], spawner)
    node = LocalNode(
        container,
        spawner,
        groups=groups,
        name=welcome.name,
        streams=Streams(directory / "streams", loops),
        doors=Doors(loops),
    )
    joined = a.Joined(
        found.resources,
        topology.look(found.cpus),
        held.gpus,
        str(directory),
        machine.hardware_with(found, held.gpus),
    )
    return node, joined, held
