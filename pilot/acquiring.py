"""What a pilot asks the dispatcher for: jobs for its free room, and one to come while the room is
taken by short ones."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Iterable, Iterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log, ThrottledLog
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.resources import Room
from ailurus.protocol.worker import Ending
from ailurus.wire import authority
from ailurus.wire.client import Nonsense, Refused
from pilot.kit import Kit
from pilot.upstream.link import Dismissed, Link, backoff

# Answers in a row to one request that cannot be read: a proxy's hiccup passes sooner.
MOST_NONSENSE = 5
# How long the dispatcher holds an acquire: of an idle pilot, of a busy one, of one that prefetches.
IDLE_POLL_S, BUSY_POLL_S, AHEAD_POLL_S = 30.0, 5.0, 2.0
SHORT_S = 300.0
"""A job to come is fetched behind jobs that run no longer, and waits here no longer for a slot:
others may have one before. Longer ones gain little by it."""

FIRST_REST_S, LONGEST_REST_S = 1.0, 30.0
"""Between acquires of a node that has just failed a job."""


class Terms(Struct, frozen=True, kw_only=True):
    """For how long, and for how many jobs."""

    lifetime_s: float | None = None
    idle_exit_s: float | None = None
    max_jobs: int | None = None
    empty_acquires: int | None = None
    grace_s: float = 20.0


class Taker(Protocol):
    """Who takes the jobs, and knows when it is to end. All of it may be called by any thread."""

    taken: int
    """How many jobs it has taken so far."""
    idle_since: float
    """When its last job ended, by the monotonic clock."""

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs."""

    @property
    def busy(self) -> bool:
        """Whether jobs are there."""

    def seconds_left(self) -> float | None:
        """Seconds until payloads must end; None: there is no such time."""

    def drain(self, why: str, ending: Ending = ...) -> None:
        """Take no more jobs."""

    def take(self, jobs: Iterable[m.Assignment], at_most_s: float | None = None) -> None:
        """Carry jobs, which may wait for so long for their slots; None: for as long as it
        takes."""


class Vacancy(Struct, frozen=True):
    """Room to fill: how many jobs it may hold, how long to wait for the first, and whether it is
    still taken, by jobs that end soon."""

    room: Room
    count: int
    wait_s: float
    ahead: bool = False


class Acquirer:
    """Asks, in a thread of its own, until the pilot drains."""

    def __init__(self, kit: Kit, link: Link, terms: Terms, server: Taker) -> None:
        self._link, self._terms, self._server = link, terms, server
        self._slots, self._clock = kit.slots, kit.clock
        self._log = Log("pilot.acquiring")
        self._trouble = ThrottledLog(self._log)
        # The room of the last acquire.
        self._offered: Room | None = None
        self._prefetch = False
        # How long the payload ran that has ended last.
        self._lasted_s = float("inf")
        # Of a node that has failed jobs for what it lacks.
        self._rest_s = FIRST_REST_S
        self._rests_until = float("-inf")

    def rest(self) -> None:
        """Take no jobs for a while, twice as long each time: one that just failed for what this
        node lacks may be the next to come, and has only so many attempts. Any thread may call
        this."""
        now = self._clock.monotonic()
        with self._slots.changed:
            # Of those that fail together, the first one counts. Another node's jobs need not wait.
            if now >= self._rests_until and self._slots.total.nodes == 1:
                self._rests_until = now + self._rest_s
                self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)

    def rested(self) -> None:
        """A job has begun and did not fail for this node. Any thread may call this."""
        self._rest_s = FIRST_REST_S

    def ended(self, run_s: float) -> None:
        """A payload has ended that ran so long. Any thread may call this."""
        self._lasted_s = run_s

    def run(self, loop: Loop) -> None:
        """Acquire jobs for free room until the pilot drains."""
        server = self._server
        pauses: Iterator[float] = backoff()
        empty = nonsense = 0
        request: m.Acquire | None = None
        while not server.draining:
            loop.turned(None)
            if request is None and (request := self.next_request()) is None:
                continue
            try:
                answer = self._link.call(
                    "acquire", request, answer=m.Acquired, wait_s=request.wait_s
                )
            except (Dismissed, Refused) as error:
                self._log.error("acquire_refused", what=str(error))
                server.drain(str(error), Ending.FAILED)
                return
            except Nonsense as error:
                nonsense += authority.newer(error, self._link.registered.giver)
                # A job for a newer pilot, which may have it.
                if nonsense == MOST_NONSENSE:
                    self._log.error("dispatcher_not_understood", what=str(error))
                    server.drain(f"the dispatcher is not understood: {error}", Ending.FAILED)
                    return
                self._trouble.warning("dispatcher_not_understood", str(error))
                self._pause(next(pauses))
            except AilurusError as error:
                # The same request again: its answer may be on its way.
                self._trouble.warning("dispatcher_silent", str(error), request=request.request_id)
                self._pause(next(pauses))
                request = replace(request, wait_s=self._longest(request.wait_s))
            else:
                self._trouble.resolved("dispatcher_silent")
                empty = self.accept(answer, empty, ahead=request.ahead)
                pauses, nonsense, request = backoff(), 0, None
            # The start is over.
            gc.enable()

    def accept(self, answer: m.Acquired, empty: int, *, ahead: bool = False) -> int:
        """Take the jobs of an answer; how many answers in a row had none. `ahead`: of the request
        that it answers."""
        server = self._server
        self._prefetch = answer.prefetch
        if answer.jobs:
            empty = 0
            server.take(answer.jobs, at_most_s=SHORT_S if ahead else None)
        elif not server.busy and not self._slots.awaits:
            # Beside jobs the answer may only mean that one of them has ended.
            empty += 1
        if answer.drain:
            server.drain("the dispatcher drains this worker")
        if self._terms.empty_acquires is not None and empty >= self._terms.empty_acquires:
            server.drain(f"no job in {empty} requests", Ending.IDLE_EXIT)
        return empty

    def next_request(self) -> m.Acquire | None:
        """The next acquire, once there is room; None: look again."""
        slots, server = self._slots, self._server
        with slots.changed:
            if not server.draining and slots.wait_for_nodes():
                return None
            left = self._rests_until - self._clock.monotonic()
            if left > 0 and not server.draining:
                self._clock.wait(slots.changed, left)
                return None
            vacancy = self._vacancy()
            if vacancy is None:
                if not server.draining:
                    self._clock.wait(slots.changed)
                return None
        wait_s = self._longest(vacancy.wait_s)
        if wait_s <= 0 and vacancy.room == self._offered:
            # Not before all of this room was offered.
            server.drain(f"idle for {self._terms.idle_exit_s:.0f} s", Ending.IDLE_EXIT)
            return None
        self._offered = vacancy.room
        return m.Acquire(
            request_id=uuid.uuid4().hex,
            room=replace(vacancy.room, seconds_left=server.seconds_left()),
            count=vacancy.count,
            wait_s=round(wait_s, 3),
            ahead=vacancy.ahead,
            items=True,
            item_files=True,
            results=True,
            uploads=True,
            shared_items=True,
            hardware=slots.hardware(),
        )

    def _longest(self, wait_s: float) -> float:
        """How long the pilot may wait for a job: an idle one no longer than it may be idle."""
        if self._server.busy or self._terms.idle_exit_s is None:
            return wait_s
        left = self._server.idle_since + self._terms.idle_exit_s - self._clock.monotonic()
        return round(max(0.0, min(wait_s, left)), 3)

    def _vacancy(self) -> Vacancy | None:
        """The room to fill, if there is any; under the slots' lock."""
        left = 1000
        if self._terms.max_jobs is not None:
            left = self._terms.max_jobs - self._server.taken
            if left <= 0:
                self._server.drain(f"{self._server.taken} jobs taken")
                return None
        slots = self._slots
        room = slots.room()
        if cores := sum(one.cores * one.nodes for one in room.groups if one.memory_mb):
            wait_s = BUSY_POLL_S if self._server.busy or slots.awaits else IDLE_POLL_S
            return Vacancy(room, min(cores, left), wait_s)
        most = max(1, slots.total.together.cores // 16)
        short = self._lasted_s <= SHORT_S and not slots.stuck
        if self._prefetch and short and slots.waiting() < most:
            # Until the dispatcher allows it again.
            self._prefetch = False
            return Vacancy(slots.total, 1, AHEAD_POLL_S, ahead=True)
        return None

    def _pause(self, seconds: float) -> None:
        with self._slots.changed:
            if not self._server.draining:
                self._clock.wait(self._slots.changed, seconds)
