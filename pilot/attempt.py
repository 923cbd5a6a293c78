"""An attempt that this pilot runs: the state that its thread, the supervisor and the reporter
share."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.messages import Assignment, Credential, Held, ItemEnd, Usage
from ailurus.protocol.messages.usage import NodeUsage
from ailurus.protocol.states import JobState
from pilot.clock import SYSTEM, Clock
from pilot.ports import Image, JobError

if TYPE_CHECKING:
    from pilot.progress import StagingProgress
    from pilot.workdir import Workdir

MOST_NOTES = 200


class Signallable(Protocol):
    """What runs for an attempt."""

    def signal(self, number: int) -> None:
        """Send a signal to its processes; KILL ends all of them."""

    def outlives(self, node: str) -> bool:
        """A node of it is lost, and all that runs there. Whether it goes on."""


class Attempt:
    """One attempt, from its acquisition to its report."""

    renew: Callable[[], None] = staticmethod(lambda: None)
    """Has newer credentials of its user before files are tried again."""
    result = ""
    """The result document that its payload left."""

    def __init__(
        self,
        assignment: Assignment,
        on_change: Callable[[Attempt], None],
        on_settled: Callable[[Attempt], None] = lambda attempt: None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.assignment = assignment
        self.spec = assignment.spec
        # The node that it runs on, where that is not the pilot's own.
        self.host = ""
        self.id = (assignment.job_id, assignment.attempt_nr)
        self.state = JobState.SENT
        self.since = clock.time()
        self.usage = Usage()
        # Of each of several nodes.
        self.used_on_nodes: Callable[[], tuple[NodeUsage, ...]] = tuple
        # The answer to a `tail` command, for the next heartbeat.
        self.tail: str | None = None
        # Of its user, as they were fetched last.
        self.credentials: tuple[Credential, ...] = ()
        # While its files are moved.
        self.staging: StagingProgress | None = None
        # Wakes its own thread: a slot was granted, or the attempt is to stop.
        self.wakeup = threading.Event()
        self.work: Workdir | None = None
        # What its container has prepared; None: it names none.
        self.image: Image | None = None
        # What happened, for the log tarball.
        self.notes: list[str] = []
        # Which of its nodes were lost while it went on, and which came.
        self.node_changes: list[str] = []
        # What its uploads may have left in storage, which is still to be removed.
        self.leftovers: list[str] = []
        # What it holds, or has held.
        self.held: Held | None = None
        # Of that, what none of its payloads had, if it carries many.
        self.unused_core_s = 0.0
        # Ends of its items that no answer has acknowledged.
        self.untold: tuple[ItemEnd, ...] = ()
        # Which of its items left an output, by the name in storage.
        self.of_items: dict[str, int] = {}
        # Seconds of each phase.
        self.timing: dict[str, float] = {}
        # When TERM becomes KILL, by the monotonic clock.
        self.kill_at: float | None = None
        # Whether its payload ran.
        self.began = False
        # Why it failed, where this node is at fault.
        self.node_fault: JobError | None = None
        # When it has waited for its slots for long enough, by the monotonic clock; None: it may
        # wait for as long as it takes.
        self.waits_until: float | None = None
        # Stopped for this pilot's reasons: unless begun it is given back, for others.
        self.give_back = False
        self._on_change, self._on_settled, self._clock = on_change, on_settled, clock
        self._stop: JobError | None = None
        self._stopped = threading.Event()
        self._payload: Signallable | None = None
        self._lock = threading.Lock()

    def beside(self) -> Attempt:
        """One for transfers beside its payload, with the same credentials and notes. Stopping
        either does not stop the other, and the dispatcher hears nothing of this one."""
        other = Attempt(self.assignment, lambda _: None, clock=self._clock)
        other.credentials, other.notes = self.credentials, self.notes
        return other

    @property
    def name(self) -> str:
        return f"{self.id[0]}.{self.id[1]}"

    def enter(self, state: JobState) -> None:
        """Enter `state`, and let the reporter know."""
        self.state, self.since = state, self._clock.time()
        self.note(state)
        self._on_change(self)

    def settle(self) -> None:
        """Nothing is owed for this attempt any more."""
        self._on_settled(self)

    def note(self, text: str) -> None:
        """Add a line to the attempt's own log, unless it has too many."""
        if len(self.notes) < MOST_NOTES:
            now = time.gmtime(self._clock.time())
            self.notes.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', now)} {text}")

    def pause(self, seconds: float) -> None:
        """Wait for so long, or until the attempt is to stop."""
        self._clock.wait(self._stopped, seconds)

    def used(self) -> Usage:
        """What its payload has used so far, in all and on each of several nodes."""
        return replace(self.usage, nodes=nodes) if (nodes := self.used_on_nodes()) else self.usage

    def check(self) -> None:
        """Raise the JobError that stops this attempt, if one does."""
        if self._stop is not None:
            raise self._stop

    @property
    def stopped(self) -> JobError | None:
        return self._stop

    def stopped_within(self, seconds: float) -> JobError | None:
        """What stops this attempt, if anything does within `seconds`."""
        self._clock.wait(self._stopped, seconds)
        return self._stop

    def start_payload(self, start: Callable[[], Signallable]) -> None:
        """Start the payload; from now on a stop reaches it. Raises the attempt's own stop instead,
        if it was stopped before."""
        with self._lock:
            self.check()
            self._payload = start()

    def payload_ended(self) -> None:
        with self._lock:
            self._payload = None
            self.kill_at = None

    def stop(self, error: JobError, *, grace_s: float = 0.0) -> None:
        """End the attempt with `error`; the payload gets TERM first if there is a grace time.

        The first error is the one that counts; a later call may only make the attempt end sooner.
        """
        with self._lock:
            if self._stop is None:
                self._stop = error
                self.note(f"stopped: {error}")
                self._stopped.set()
            if self._payload is not None:
                if grace_s > 0:
                    self._kill_by(grace_s)
                    self._payload.signal(signal.SIGTERM)
                else:
                    self._payload.signal(signal.SIGKILL)
        self.wakeup.set()
        self._on_change(self)

    def lose(self, node: str, error: JobError) -> None:
        """A node that it has a slot on is lost: end it with `error`, unless it goes on without."""
        with self._lock:
            if self._payload is not None and self._payload.outlives(node):
                self.note(f"goes on without {node}: {error}")
                return
        self.stop(error)

    def terminate(self) -> None:
        """Send TERM to the payload; what it then returns is its result."""
        with self._lock:
            if self._payload is not None:
                self._payload.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send KILL to the payload: the grace time is over."""
        with self._lock:
            self.kill_at = None
            if self._payload is not None:
                self._payload.signal(signal.SIGKILL)

    def _kill_by(self, grace_s: float) -> None:
        at = self._clock.monotonic() + grace_s
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)


def killed_by_server() -> JobError:
    return JobError(Code.KILLED_BY_SERVER, "the dispatcher told the pilot to stop this attempt")
