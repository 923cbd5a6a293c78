"""The pilot's service: acquire as many jobs as free slots hold, and give each a thread."""

from __future__ import annotations

import errno
import gc
import signal
import threading
import time
import uuid
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log, Seldom
from ailurus.loops import Down, Loop, Loops
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.worker import Ending
from ailurus.wire import authority
from ailurus.wire.client import Nonsense, Refused
from pilot.attempt import Attempt
from pilot.blame import Target, job_error
from pilot.flow import carry
from pilot.kit import Kit
from pilot.node.slots import Need, room_of
from pilot.ports import JobError
from pilot.upstream.link import Dismissed, Link, backoff
from pilot.upstream.spool import Begun

NUDGE = signal.SIGALRM  # «look again», from the pilot's own threads to its main one
SIGNALS = {
    signal.SIGTERM: Code.SIGTERM,
    signal.SIGHUP: Code.SIGTERM,  # PanDA has no code for it
    signal.SIGINT: Code.SIGINT,
    signal.SIGXCPU: Code.SIGXCPU,
    signal.SIGUSR1: Code.SIGUSR1,
    signal.SIGQUIT: Code.SIGQUIT,
}
HANDLED_SIGNALS = frozenset({*SIGNALS, signal.SIGUSR2, NUDGE})
LAST_WORDS_S = 10.0  # for reports, after the grace time
LACKS = 3  # jobs in a row that this node could not begin: then it is no place for the next one
NONSENSE = 5  # answers in a row, to one request: then it is no proxy's hiccup
IDLE_POLL_S, BUSY_POLL_S, AHEAD_POLL_S = 30.0, 5.0, 2.0


class Terms(Struct, frozen=True, kw_only=True):
    """For how long, and for how many jobs."""

    lifetime_s: float | None = None
    idle_exit_s: float | None = None
    max_jobs: int | None = None
    empty_acquires: int | None = None
    grace_s: float = 20.0


class Served(Struct, frozen=True, kw_only=True):
    """How a pilot's service ended."""

    ending: Ending
    diagnosis: str = ""
    signal: int = 0
    jobs: int = 0
    owed: bool = False
    """Reports wait in the spool for the next pilot."""


class Server:
    """Three threads beside the main one, and one a job."""

    def __init__(self, kit: Kit, link: Link, terms: Terms) -> None:
        self._kit, self._link, self._terms = kit, link, terms
        self._began = self._idle_since = time.monotonic()
        self._asked: Need | None = None  # the room of the last ask
        self._jobs: set[Attempt] = set()
        self._taken = self._lacks = 0
        self._prefetch = False
        self._draining = ""
        self.ending = Ending.DONE
        self.broken = False  # nothing that a dispatcher or a site does ends it like this
        self._main = threading.get_ident()
        self._signals: list[int] = []
        self._stop_by = float("inf")
        self._log = Log("pilot.serve")
        self._trouble = Seldom(self._log)
        self.loops = Loops(self._log, on_failure=self.nudge)

    def serve(self) -> Served:
        """Serve until the terms, a signal or the dispatcher end it. The caller blocks `HANDLED_SIGNALS`."""
        kit = self._kit
        kit.reporter.when_quiet = self._nudge_if_draining
        try:
            self.loops.thread("reporter", kit.reporter.run, over=lambda: kit.reporter.closed)
            self.loops.thread("supervisor", kit.supervisor.run, over=lambda: kit.supervisor.closed)
            self.loops.thread("acquirer", self._acquire, over=lambda: bool(self._draining))
        except RuntimeError:
            raise self.no_thread() from None
        while not self._over():
            found = signal.sigtimedwait(HANDLED_SIGNALS, self._patience())
            if found is not None and found.si_signo == signal.SIGUSR2:
                self.drain("told to drain by SIGUSR2")
            elif found is not None and found.si_signo != NUDGE:
                self._interrupt(signal.Signals(found.si_signo))
            for down in self.loops.down():
                self._broken(down)
            if self._lifetime_over():
                self.drain("the lifetime is over", Ending.WALLTIME)
                why = JobError(
                    Code.WALLTIME,
                    "the pilot's time was over before the payload's",
                    remedy="give the job a `walltime`: it is then started only where it fits",
                    transient=True,
                )
                self._stop_all(why, self._terms.grace_s)
        self.loops.close()
        return Served(
            ending=self.ending,
            diagnosis=self._draining,
            signal=self._signals[0] if self._signals else 0,
            jobs=self._taken,
            owed=kit.reporter.owes() > 0,
        )

    @property
    def diagnosis(self) -> str:
        return self._draining

    def drain(self, why: str, ending: Ending = Ending.DONE) -> None:
        """Take nothing more; finish what is here, then end."""
        if not self._draining:
            self._log.info("draining", why=why)
            self._draining, self.ending = why, ending
            self._kit.reporter.drain()
        with self._kit.slots.changed:
            self._kit.slots.changed.notify_all()
        self.nudge()

    def nudge(self) -> None:
        signal.pthread_kill(self._main, NUDGE)

    def guardian_lost(self) -> None:
        self.broken = True
        self.drain("the guardian died, and all payloads with it", Ending.FAILED)

    def no_thread(self) -> JobError:
        """Drain, for the system gives no thread; what to say of it."""
        error = job_error(errno.EAGAIN, "the pilot cannot start a thread", Target.NODE)
        self.broken = True
        self.drain(str(error), Ending.FAILED)
        return error

    # the main thread -----------------------------------------------------------------------------

    def _over(self) -> bool:
        if time.monotonic() > self._stop_by:
            return True
        return bool(self._draining) and not self._jobs and self._kit.reporter.idle()

    def _patience(self) -> float:
        """How long nothing can happen that is not a signal."""
        deadlines = [self._stop_by]
        if (soon := self.loops.look_in()) is not None:
            deadlines.append(time.monotonic() + soon)
        if self._terms.lifetime_s is not None and self._stop_by == float("inf"):
            deadlines.append(self._began + self._terms.lifetime_s - self._terms.grace_s)
        return max(0.0, min(min(deadlines) - time.monotonic(), 3600.0))

    def _lifetime_over(self) -> bool:
        lifetime = self._terms.lifetime_s
        return (
            lifetime is not None
            and self._stop_by == float("inf")
            and time.monotonic() > self._began + lifetime - self._terms.grace_s
        )

    def _interrupt(self, number: signal.Signals) -> None:
        """The first signal gives payloads the grace time, the second none."""
        again = bool(self._signals)
        self._signals.append(number)
        self.drain(f"got {number.name}", Ending.PREEMPTED)
        why = JobError(
            SIGNALS[number],
            f"the pilot got {number.name} and ended",
            remedy="the job is tried again elsewhere",
        )
        self._stop_all(why, 0.0 if again else self._terms.grace_s)

    def _broken(self, down: Down) -> None:
        """A loop does not recover: take nothing more; without who reports and who watches, run nothing."""
        self.broken = True
        self.drain(str(down), Ending.FAILED)
        if down.loop != "acquirer" and self._stop_by == float("inf"):
            why = JobError(Code.INTERNAL, f"the pilot itself failed: {down}", transient=True)
            self._stop_all(why, self._terms.grace_s)

    def _stop_all(self, why: JobError, grace_s: float) -> None:
        self._stop_by = min(self._stop_by, time.monotonic() + grace_s + LAST_WORDS_S)
        for attempt in list(self._jobs):
            attempt.give_back = True
            attempt.stop(why, grace_s=grace_s)

    # the acquirer's thread -----------------------------------------------------------------------

    def _acquire(self, loop: Loop) -> None:
        pauses = backoff()
        empty = nonsense = 0
        request, ask = "", None
        while not self._draining:
            loop.turned(None)
            if request:  # the start is over
                gc.enable()
            if ask is None:
                ask = self._next_ask()
                if ask is None:
                    continue
            request = ask.request_id
            try:
                answer = self._link.call("acquire", ask, answer=m.Acquired, wait_s=ask.wait_s)
            except (Dismissed, Refused) as error:
                self._log.error("acquire_refused", what=str(error))
                self.drain(str(error), Ending.FAILED)
                return
            except Nonsense as error:
                nonsense += authority.newer(error, self._link.registered.giver)
                if nonsense == NONSENSE:  # a job for a newer pilot: let another one have it
                    self._log.error("dispatcher_not_understood", what=str(error))
                    self.drain(f"the dispatcher is not understood: {error}", Ending.FAILED)
                    return
                self._trouble.warning("dispatcher_not_understood", str(error))
                self._pause(next(pauses))
                continue
            except AilurusError as error:  # the same request again: its answer may be on its way
                self._trouble.warning("dispatcher_silent", str(error), request=request)
                self._pause(next(pauses))
                ask = replace(ask, wait_s=self._longest(ask.wait_s))
                continue
            self._trouble.over("dispatcher_silent")
            pauses, nonsense, ask = backoff(), 0, None
            self._prefetch = answer.prefetch
            if answer.jobs:
                empty = 0
                self._take(answer.jobs)
            elif not self._jobs:  # beside others the answer may only say that one of them has ended
                empty += 1
            if answer.drain:
                self.drain("the dispatcher drains this worker")
            if self._terms.empty_acquires is not None and empty >= self._terms.empty_acquires:
                self.drain(f"no job in {empty} requests", Ending.IDLE_EXIT)

    def _next_ask(self) -> m.Acquire | None:
        """What to ask for next, once there is room; None: look again."""
        slots = self._kit.slots
        with slots.changed:
            wanted = self._wanted()
            if wanted is None:
                if not self._draining:
                    slots.changed.wait()
                return None
        room, count, wait_s, ahead = wanted
        wait_s = self._longest(wait_s)
        if wait_s <= 0 and room == self._asked:  # not before all of this room was offered
            self.drain(f"idle for {self._terms.idle_exit_s:.0f} s", Ending.IDLE_EXIT)
            return None
        self._asked = room
        return m.Acquire(
            request_id=uuid.uuid4().hex,
            room=room_of(room, self.seconds_left()),
            count=count,
            wait_s=round(wait_s, 3),
            ahead=ahead,
        )

    def _longest(self, wait_s: float) -> float:
        """How long of `wait_s` a job is waited for: without one no longer than a pilot may be idle."""
        if self._jobs or self._terms.idle_exit_s is None:
            return wait_s
        left = self._idle_since + self._terms.idle_exit_s - time.monotonic()
        return round(max(0.0, min(wait_s, left)), 3)

    def _wanted(self) -> tuple[Need, int, float, bool] | None:
        """Room to fill, how many jobs, how long to wait for the first, and whether the room is still
        taken; under the slots' lock."""
        left = 1000
        if self._terms.max_jobs is not None:
            left = self._terms.max_jobs - self._taken
            if left <= 0:
                self.drain(f"{self._taken} jobs taken")
                return None
        slots = self._kit.slots
        room = slots.room()
        if room.cores > 0 and room.memory_mb > 0:
            waits = IDLE_POLL_S if not self._jobs else BUSY_POLL_S
            return room, min(room.cores, left), waits, False
        if self._prefetch and slots.waiting() < max(1, slots.total.cores // 16):
            self._prefetch = False  # until the dispatcher says so again
            return slots.total, 1, AHEAD_POLL_S, True
        return None

    def _take(self, jobs: Iterable[m.Assignment]) -> None:
        kit = self._kit
        taken = [Attempt(job, self._changed, self._settled) for job in jobs]
        try:
            kit.journal.begin([self._begun(attempt) for attempt in taken])
        except OSError as error:  # the leases of a pilot that dies now run out: slower, not lost
            self._log.error("spool_failed", what=error.strerror)
        except Exception:  # noqa: BLE001 - as above: what has been taken is carried, come what may
            self._log.error("spool_failed", trace=True)
        self._taken += len(taken)
        for attempt in taken:
            self._jobs.add(attempt)
            kit.slots.expect(attempt)
            kit.reporter.hold(attempt)
            if self._draining:
                attempt.give_back = True
                attempt.stop(JobError(Code.SIGTERM, "the pilot ends"))
            thread = threading.Thread(
                target=self._carry, args=(attempt,), name=f"job-{attempt.name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                lack = self.no_thread()
                self._log.error("given_back", job_id=attempt.id[0], what=str(lack))
                kit.reporter.release(attempt)
                self._left(attempt)

    def _begun(self, attempt: Attempt) -> Begun:
        return Begun(
            job_id=attempt.id[0],
            attempt_nr=attempt.id[1],
            report_key=attempt.assignment.report_key,
            outputs=tuple(self._kit.stage.planned(attempt.id, attempt.spec)),
            directory=str(self._kit.directory / attempt.name),
            host=self._kit.host,
            seal=attempt.assignment.seal,
        )

    def _carry(self, attempt: Attempt) -> None:
        try:
            carry(attempt, self._kit)
        except BaseException as error:  # noqa: BLE001 - not even a report: the lease shall run out
            self._log.error("attempt_lost", trace=True, job_id=attempt.id[0])
            self._kit.reporter.forget(attempt)
            self.broken = True
            self.drain(f"an attempt was lost: {type(error).__name__}: {error}", Ending.FAILED)
        finally:
            self._count_lack(attempt)
            self._left(attempt)

    def _count_lack(self, attempt: Attempt) -> None:
        """Where nothing can be begun, take nothing more: a node that fails at once would have all jobs of a
        queue, and each of their attempts."""
        if attempt.began:
            self._lacks = 0
        elif attempt.lack is not None:
            self._lacks += 1
            if self._lacks >= LACKS:
                self.broken = True
                what = f"{LACKS} jobs in a row could not begin here, the last one: {attempt.lack}"
                self.drain(what, Ending.FAILED)

    def _left(self, attempt: Attempt) -> None:
        """An attempt is not here any more."""
        self._kit.slots.gone(attempt)
        self._jobs.discard(attempt)
        self._idle_since = time.monotonic()
        with self._kit.slots.changed:
            self._kit.slots.changed.notify_all()
        self._nudge_if_draining()

    def _nudge_if_draining(self) -> None:
        if self._draining:
            self.nudge()

    def _pause(self, seconds: float) -> None:
        with self._kit.slots.changed:
            if not self._draining:
                self._kit.slots.changed.wait(seconds)

    def seconds_left(self) -> float | None:
        if self._terms.lifetime_s is None:
            return None
        end = self._began + self._terms.lifetime_s - self._terms.grace_s
        return max(0.0, round(end - time.monotonic(), 1))

    def _changed(self, attempt: Attempt) -> None:
        self._kit.reporter.changed(attempt)
        if attempt.kill_at is not None:
            self._kit.supervisor.wake_by(attempt.kill_at)

    def _settled(self, attempt: Attempt) -> None:
        self._kit.journal.settle([attempt.id])
