"""An attempt in this pilot's hands: what its thread, the supervisor and the reporter tell each other."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ailurus.protocol.errors import Code
from ailurus.protocol.messages import Assignment, Usage
from ailurus.protocol.states import JobState
from pilot.ports import JobError, Spawner

if TYPE_CHECKING:
    from pilot.workdir import Workdir


class Attempt:
    """One attempt, from its acquisition to its report."""

    def __init__(
        self,
        assignment: Assignment,
        on_change: Callable[[Attempt], None],
        on_settled: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        self.assignment = assignment
        self.spec = assignment.spec
        self.id = (assignment.job_id, assignment.attempt_nr)
        self.state = JobState.SENT
        self.since = time.time()
        self.acquired = time.monotonic()
        self.usage = Usage()
        self.tail: str | None = None  # answer to a `tail` command, for the next heartbeat
        # Wakes its own thread: a slot was granted, or the attempt is to stop.
        self.wakeup = threading.Event()
        self.work: Workdir | None = None
        self.notes: list[str] = []  # what happened, for the log tarball
        self.timing: dict[str, float] = {}
        self.kill_at: float | None = None  # monotonic: when TERM becomes KILL
        self.began = False  # its payload ran
        self.lack: JobError | None = None  # why not, where it is this node that lacks something
        self.give_back = False  # stopped by the pilot's end: unstarted it may be given back
        self._on_change, self._on_settled = on_change, on_settled
        self._stop: JobError | None = None
        self._stopped = threading.Event()
        self._payload: tuple[Spawner, int] | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return f"{self.id[0]}.{self.id[1]}"

    def enter(self, state: JobState) -> None:
        """The attempt enters `state`."""
        self.state, self.since = state, time.time()
        self.note(state)
        self._on_change(self)

    def settle(self) -> None:
        """Nothing is owed for this attempt any more."""
        self._on_settled(self)

    def note(self, what: str) -> None:
        if len(self.notes) < 200:
            self.notes.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {what}")

    def check(self) -> None:
        """Raise what stops this job, if anything does."""
        if self._stop is not None:
            raise self._stop

    @property
    def stopped(self) -> JobError | None:
        return self._stop

    def stopped_within(self, seconds: float) -> JobError | None:
        """What stops this job, if anything does by then."""
        self._stopped.wait(seconds)
        return self._stop

    def start_payload(self, start: Callable[[], tuple[Spawner, int]]) -> None:
        """Start the payload, unless the job was stopped; a stop from now on reaches it."""
        with self._lock:
            self.check()
            self._payload = start()

    def payload_ended(self) -> None:
        """The payload has ended."""
        with self._lock:
            self._payload = None
            self.kill_at = None

    @property
    def pid(self) -> int | None:
        payload = self._payload
        return payload[0].pid(payload[1]) if payload else None

    def stop(self, error: JobError, *, grace_s: float = 0.0) -> None:
        """End the attempt with this error; the payload gets TERM first if there is a grace time.

        The first reason is the one that counts; a later call may only make it end sooner.
        """
        with self._lock:
            if self._stop is None:
                self._stop = error
                self.note(f"stopped: {error}")
                self._stopped.set()
            if self._payload is not None:
                spawner, key = self._payload
                if grace_s > 0:
                    self._kill_by(grace_s)
                    spawner.signal(key, signal.SIGTERM)
                else:
                    spawner.signal(key, signal.SIGKILL)
        self.wakeup.set()
        self._on_change(self)

    def terminate(self) -> None:
        """Let the payload end by itself: TERM, and what it then returns is its result."""
        with self._lock:
            if self._payload is not None:
                self._payload[0].signal(self._payload[1], signal.SIGTERM)

    def kill(self) -> None:
        """The grace time is over."""
        with self._lock:
            self.kill_at = None
            if self._payload is not None:
                self._payload[0].signal(self._payload[1], signal.SIGKILL)

    def _kill_by(self, grace_s: float) -> None:
        at = time.monotonic() + grace_s
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)


def killed_by_server() -> JobError:
    return JobError(Code.KILLED_BY_SERVER, "the dispatcher told the pilot to stop this attempt")
