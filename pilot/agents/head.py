"""The pilot's end of all its agents' links: lets them in, hears them, gives up those that are lost.

One loop does it. It reads no file and waits for no agent: one that takes nothing, or says nothing,
is lost when its lease is over (`lease.py`), and at once when its connection ends.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import Struct

from ailurus import __version__
from ailurus.logs import Log
from ailurus.loops import Loop
from pilot.agents import messages as a
from pilot.agents.chores import apart
from pilot.agents.lease import HeadLease, LeaseTerms
from pilot.agents.link import Handshake, Stranger
from pilot.agents.remote import RemoteNode
from pilot.agents.starting import Starting
from pilot.agents.wire import Wire
from pilot.clock import SYSTEM, Clock
from pilot.node_ports import Share
from pilot.ports import Container
from pilot.site import Site

HELLO_S = 5.0
"""For a peer to prove that it has the key."""
JOIN_S = 60.0
"""For an agent that was let in to be ready: it may wait for a file system."""
LOOK_S = 0.25
"""Between two looks who is late."""
BYE_S = 5.0
"""For agents to kill what runs and to end."""
MORE_PEERS = 16
"""How many peers may be proving themselves at once, beside two for each node."""


class Welcoming(Struct, frozen=True, kw_only=True):
    """What agents are told, and what is expected of them."""

    key: bytes
    shares: Sequence[Share]
    """Of the nodes on which an agent is to be."""
    site: Site
    gpus: int | None
    """How many the slot has on a node, at most those of its share; None: all of those."""
    terms: LeaseTerms
    probe: tuple[str, str]


class _Peer:
    """A connection: a stranger, then an agent, then a node."""

    def __init__(self, link: socket.socket, address: str, handshake: Handshake, by: float) -> None:
        self.link, self.address, self.handshake = link, address, handshake
        self.by = by
        """When it must have come so far."""
        self.wire: Wire | None = None
        self.share: Share | None = None
        self.node: RemoteNode | None = None
        self.lease: HeadLease | None = None

    @property
    def deadline(self) -> float:
        """When it is given up."""
        return self.by if self.lease is None else self.lease.until


class Head:
    """All agents of this pilot. `run` has a thread; the rest is any thread's."""

    def __init__(
        self,
        welcoming: Welcoming,
        container: Container,
        on_join: Callable[[RemoteNode, a.Joined], None],
        on_leave: Callable[[str, str], None],
        address: str,
        clock: Clock = SYSTEM,
    ) -> None:
        """Listens on `address` and nowhere else. `on_join` and `on_leave` are told by the loop.
        Raises OSError."""
        self._welcoming, self._container, self._clock = welcoming, container, clock
        self._on_join, self._on_leave = on_join, on_leave
        try:
            self._listener = _listening(address, 2 * len(welcoming.shares) + MORE_PEERS)
        except OSError as error:
            what = f"cannot listen for agents at {address}, which the batch system calls this node"
            raise OSError(f"{what}: {error.strerror or error}") from None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(self._bell, select.EPOLLIN)
        self._peers: dict[int, _Peer] = {}
        # Those that have not proved themselves, the oldest first.
        self._strangers: dict[int, _Peer] = {}
        self._present: dict[str, _Peer] = {}
        # Lost ones whose payloads may run yet: until when, name, peer, why.
        self._doomed: list[tuple[float, str, _Peer, str]] = []
        # Those whose socket has not taken all; any thread adds to it.
        self._full: set[int] = set()
        self._look_at = 0.0
        # `close` turns, too, while `run` may be in its last turn.
        self._turning = threading.Lock()
        self.starting: Starting | None = None
        self.closed = False
        self._log = Log("pilot.agents.head")
        self._said_at, self._unsaid = float("-inf"), 0

    @property
    def at(self) -> str:
        """Where agents find it, as ADDRESS:PORT."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def run(self, loop: Loop) -> None:
        """The thread: until `close`."""
        while not self.closed:
            self.turn()
            loop.turned(None)

    def close(self) -> None:
        """Let all agents end, and wait for that a little. Called once `run` is over or will be."""
        self.closed = True
        self._ring()
        for peer in list(self._peers.values()):
            if peer.wire is not None:
                peer.wire.send(a.Bye())
        until = self._clock.monotonic() + BYE_S
        while self._present and self._clock.monotonic() < until:
            self.turn(0.1)
        for fd in list(self._peers):
            self._drop(fd, "the pilot ends")
        for doomed in self._doomed:
            self._forget(*doomed[1:])
        self._listener.close()

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _wants_out(self, fd: int) -> None:
        self._full.add(fd)
        self._ring()

    # the loop ------------------------------------------------------------------------------------

    def turn(self, most_s: float = LOOK_S) -> None:
        """Wait for something, and see to it. What has come counts before what is late."""
        with self._turning:
            self._turn(most_s)

    def _turn(self, most_s: float) -> None:
        while self._full:
            if (peer := self._peers.get(self._full.pop())) is not None:
                self._poll.modify(peer.link, select.EPOLLIN | select.EPOLLOUT)
        # `close` may have taken the bell that was for this turn.
        busy = self._peers or self._doomed or self.starting or self.closed
        for fd, event in self._poll.poll(most_s if busy else None):
            if fd == self._bell:
                os.eventfd_read(self._bell)
            elif fd == self._listener.fileno():
                self._accept()
            elif fd in self._peers:
                self._served(fd, event)
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(now)

    def _look(self, now: float) -> None:
        """Give up who is late, and start who is missing."""
        for fd, peer in list(self._peers.items()):
            if now >= peer.deadline:
                self._drop(fd, "it was silent for too long")
        for doomed in [one for one in self._doomed if now >= one[0]]:
            self._doomed.remove(doomed)
            self._forget(*doomed[1:])
        if self.starting is not None and not self.closed:
            missing = [one.name for one in self._welcoming.shares if one.name not in self._present]
            self.starting.look(missing, now)

    def _accept(self) -> None:
        try:
            link, (address, *_) = self._listener.accept()
        except OSError:
            # It is gone again, or there is no descriptor left for it.
            return
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        by = self._clock.monotonic() + HELLO_S
        peer = _Peer(link, address, Handshake(self._welcoming.key, agent=False), by)
        self._peers[link.fileno()] = self._strangers[link.fileno()] = peer
        self._poll.register(link, select.EPOLLIN)
        if len(self._strangers) > 2 * len(self._welcoming.shares) + MORE_PEERS:
            self._drop(next(iter(self._strangers)), "too many others came after it")

    def _served(self, fd: int, event: int) -> None:
        peer = self._peers[fd]
        try:
            if peer.wire is None:
                self._proved(fd, peer)
                return
            if event & select.EPOLLOUT:
                peer.wire.flush()
                if not peer.wire.waiting:
                    self._poll.modify(fd, select.EPOLLIN)
            if event & ~select.EPOLLOUT:
                if (bodies := peer.wire.receive()) is None:
                    self._drop(fd, "its connection ended")
                    return
                for body in bodies:
                    for message in a.from_agent(body):
                        if fd in self._peers:
                            self._heard(fd, peer, peer.wire, message)
        except (Stranger, msgspec.MsgspecError) as error:
            self._drop(fd, str(error), ended=False)
        except BlockingIOError:
            # It was meant for another connection of this number.
            return
        except OSError as error:
            self._drop(fd, f"its connection failed: {error.strerror}", ended=False)
        except Exception as error:  # noqa: BLE001 - it costs this agent, and the others are heard
            self._log.error("agent_failed", trace=True, node=peer.share and peer.share.name)
            if fd in self._peers:
                why = f"the pilot itself failed: {type(error).__name__}: {error}"
                self._drop(fd, why, ended=False)

    def _proved(self, fd: int, peer: _Peer) -> None:
        """Go on with a handshake. Raises Stranger and OSError."""
        if not (data := peer.link.recv(peer.handshake.missing)):
            self._drop(fd, "it went before it had said who it is")
        elif answer := peer.handshake.feed(data):
            peer.link.send(answer)
        elif peer.handshake.session is not None:
            del self._strangers[fd]
            peer.by = self._clock.monotonic() + JOIN_S
            peer.wire = Wire(peer.link, peer.handshake.session, partial(self._wants_out, fd))

    def _heard(self, fd: int, peer: _Peer, wire: Wire, message: a.FromAgent) -> None:
        if peer.lease is not None and peer.node is not None:
            if isinstance(message, a.Beat):
                peer.lease.heard(message.number, self._clock.monotonic())
                wire.beat(a.Acknowledged(peer.lease.number))
            else:
                peer.node.heard(message)
        elif isinstance(message, a.Arrived) and peer.share is None:
            self._arrived(fd, peer, wire, message)
        elif isinstance(message, a.Joined) and peer.share is not None:
            self._joined(peer, peer.share, wire, message)
        elif isinstance(message, a.Unfit):
            self._drop(fd, message.why)
        else:
            self._drop(fd, f"it said {type(message).__name__} when that was not asked for")

    def _arrived(self, fd: int, peer: _Peer, wire: Wire, message: a.Arrived) -> None:
        known = self._welcoming
        share = _share_of(message.names, peer.address, known.shares)
        why = ""
        if message.version != __version__:
            why = f"it is version {message.version}, the pilot {__version__}"
        elif share is None:
            why = f"{', '.join(message.names)} is no node of this allocation that has no agent yet"
        elif share.name in self._present:
            why = f"{share.name} has an agent already"
        if share is None or why:
            wire.send(a.TurnedAway(why))
            self._drop(fd, why)
            return
        peer.share = share
        self._present[share.name] = peer
        gpus = fewer(known.gpus, share.gpus)
        wire.send(a.Welcome(share.name, known.site, gpus, known.terms, known.probe))

    def _joined(self, peer: _Peer, share: Share, wire: Wire, message: a.Joined) -> None:
        peer.lease = HeadLease(self._welcoming.terms, self._clock.monotonic())
        peer.node = RemoteNode(
            share.name, share.address, self._container, wire, message.scratch, self._clock
        )
        self._log.info("node_joined", node=share.name, cores=message.resources.cores)
        self._on_join(peer.node, message)

    def _drop(self, fd: int, why: str, *, ended: bool = True) -> None:
        """End a connection; a node of it is lost.

        Its slots go at once. So do its payloads where the other end has closed the connection, as
        it does when it has killed them or is killed itself, and where its lease is over. A
        connection that failed otherwise proves nothing: they are dead when the lease is."""
        peer = self._peers.pop(fd)
        self._strangers.pop(fd, None)
        with suppress(OSError):
            self._poll.unregister(fd)
        if peer.wire is not None:
            peer.wire.close()
        peer.link.close()
        if peer.share is None:
            self._turned_away(why, peer.address)
            return
        if not self.closed:
            self._log.warning("node_lost", node=peer.share.name, why=why)
        if peer.node is None and self.starting is not None:
            self.starting.gone(peer.share.name)
        if peer.node is not None:
            # First no slot of it, then its payloads' ends: none is given out there again.
            with apart("slots_not_taken", peer.share.name):
                self._on_leave(peer.share.name, why)
        if ended or peer.lease is None or self.closed:
            self._forget(peer.share.name, peer, why)
        else:
            self._doomed.append((peer.lease.until, peer.share.name, peer, why))

    def _forget(self, name: str, peer: _Peer, why: str) -> None:
        """Nothing of its payloads runs on a node any more; another agent may come."""
        del self._present[name]
        if peer.node is not None:
            peer.node.lose(why)

    def _turned_away(self, why: str, address: str) -> None:
        """Say who it was, at most once a second: it may be somebody who comes again and again."""
        now = self._clock.monotonic()
        self._unsaid += 1
        if now - self._said_at >= 1.0 and not self.closed:
            self._log.warning("stranger", why=why, peer=address, times=self._unsaid)
            self._said_at, self._unsaid = now, 0


def fewer(one: int | None, other: int | None) -> int | None:
    """The lower of two bounds, of which None is none."""
    return min((bound for bound in (one, other) if bound is not None), default=None)


def _listening(address: str, backlog: int) -> socket.socket:
    """A socket on one address of this node. Raises OSError."""
    family, kind, protocol, _, at = socket.getaddrinfo(
        address, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.bind((at[0], 0))
        made.listen(max(128, backlog))
    except BaseException:
        made.close()
        raise
    made.setblocking(False)
    return made


def _share_of(names: Sequence[str], address: str, shares: Sequence[Share]) -> Share | None:
    """The node that an agent speaks of, by its names, else by where it calls from."""
    by_name = {one.name: one for one in shares}
    by_name |= {one.name.partition(".")[0]: one for one in shares}
    found = next((by_name[name] for name in names if name in by_name), None)
    return found or next((one for one in shares if one.address == address), None)
