"""The pilot's service: acquire as many jobs as free slots hold, and give each a thread."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.loops import Down, Loops
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.resources import Room
from ailurus.protocol.worker import Ending
from pilot.acquiring import Acquirer, Terms
from pilot.attempt import Attempt
from pilot.blame import Target, job_error
from pilot.flow import begun, carry
from pilot.kit import Kit
from pilot.ports import JobError
from pilot.process.signals import NUDGE, BlockedSignals, Signals
from pilot.upstream.link import Link

SIGNALS = {
    signal.SIGTERM: Code.SIGTERM,
    # PanDA has no code for it.
    signal.SIGHUP: Code.SIGTERM,
    signal.SIGINT: Code.SIGINT,
    signal.SIGXCPU: Code.SIGXCPU,
    signal.SIGUSR1: Code.SIGUSR1,
    signal.SIGQUIT: Code.SIGQUIT,
}
HANDLED_SIGNALS = frozenset({*SIGNALS, signal.SIGUSR2, NUDGE})
# For the last reports, after the grace time.
REPORTING_S = 10.0
# Jobs in a row that could not begin through this node's fault: it takes no more then.
MOST_NODE_FAULTS = 3


class Served(Struct, frozen=True, kw_only=True):
    """How a pilot's service ended."""

    ending: Ending
    diagnosis: str = ""
    signal: int = 0
    jobs: int = 0
    owed: bool = False
    """Reports wait in the spool for the next pilot."""


def no_thread() -> JobError:
    """The error of a system that gives no thread."""
    return job_error(errno.EAGAIN, "the pilot cannot start a thread", Target.NODE)


class Server:
    """Runs four threads beside the main one, and one for each job."""

    def __init__(
        self,
        kit: Kit,
        link: Link,
        terms: Terms,
        signals: Signals | None = None,
        loops: Loops | None = None,
    ) -> None:
        """Made in the main thread, with HANDLED_SIGNALS blocked. `loops`: where some have begun."""
        self._kit, self._link, self._terms, self._clock = kit, link, terms, kit.clock
        self.occupancy = kit.slots.occupancy
        self._signals: Signals = signals or BlockedSignals(HANDLED_SIGNALS)
        self._began = self.idle_since = self._clock.monotonic()
        if terms.lifetime_s is not None:
            kit.slots.end_by(self._began + terms.lifetime_s - terms.grace_s)
        self._jobs: set[Attempt] = set()
        self.taken = self._node_faults = 0
        self._draining = ""
        self.ending = Ending.DONE
        # The pilot ends through a fault of its own or of its node.
        self.broken = False
        self._interrupts: list[signal.Signals] = []
        self._stop_by = float("inf")
        self._log = Log("pilot.serve")
        self.acquirer = Acquirer(kit, link, terms, self)
        self.loops = loops or Loops(self._log, clock=self._clock.monotonic)
        self.loops.on_failure = self.nudge

    def serve(self) -> Served:
        """Serve until the terms, a signal or the dispatcher end it. Raises JobError if the system
        gives no thread."""
        self._start_loops()
        while not self._over():
            number = self._signals.wait(self._next_look_s())
            if number == signal.SIGUSR2:
                self.drain("told to drain by SIGUSR2")
            elif number is not None and number != NUDGE:
                self._interrupt(signal.Signals(number))
            for down in self.loops.down():
                self._broken(down)
            if self._lifetime_over():
                self._end_of_lifetime()
        self.loops.close()
        return Served(
            ending=self.ending,
            diagnosis=self._draining,
            signal=self._interrupts[0] if self._interrupts else 0,
            jobs=self.taken,
            owed=self._kit.reporter.owes() > 0,
        )

    @property
    def diagnosis(self) -> str:
        return self._draining

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs."""
        return bool(self._draining)

    @property
    def busy(self) -> bool:
        """Whether jobs are here."""
        return bool(self._jobs)

    def drain(self, why: str, ending: Ending = Ending.DONE) -> None:
        """Take no more jobs; finish those that are here, then end."""
        if not self._draining:
            self._log.info("draining", why=why)
            self._draining, self.ending = why, ending
            self._kit.reporter.drain()
        self._kit.slots.drain()
        self.nudge()

    def nudge(self) -> None:
        """Let the main thread look again."""
        self._signals.nudge()

    def guardian_lost(self) -> None:
        self.broken = True
        self.drain("the guardian died, and all payloads with it", Ending.FAILED)

    def no_thread(self) -> JobError:
        """Drain, because the system gives no thread; the error to raise or to log."""
        error = no_thread()
        self.broken = True
        self.drain(str(error), Ending.FAILED)
        return error

    def room(self) -> Room:
        """The room that is free for more jobs."""
        return replace(self._kit.slots.room(), seconds_left=self.seconds_left())

    def reports_settled(self) -> None:
        self._nudge_if_draining()

    # the main thread -----------------------------------------------------------------------------

    def _start_loops(self) -> None:
        reporter, supervisor = self._kit.reporter, self._kit.supervisor
        try:
            self.loops.thread(
                "reporter", lambda loop: reporter.run(loop, self), over=lambda: reporter.closed
            )
            self.loops.thread(
                "cleaner",
                lambda loop: reporter.cleaner.run(loop, self.reports_settled),
                over=lambda: reporter.cleaner.closed,
            )
            self.loops.thread("supervisor", supervisor.run, over=lambda: supervisor.closed)
            self.loops.thread("acquirer", self.acquirer.run, over=lambda: bool(self._draining))
        except RuntimeError:
            raise self.no_thread() from None

    def _over(self) -> bool:
        if self._clock.monotonic() >= self._stop_by:
            return True
        return bool(self._draining) and not self._jobs and self._kit.reporter.idle()

    def _next_look_s(self) -> float:
        """For how many seconds nothing can happen but a signal."""
        deadlines = [self._stop_by]
        if (soon := self.loops.next_check_s()) is not None:
            deadlines.append(self._clock.monotonic() + soon)
        if self._terms.lifetime_s is not None and self._stop_by == float("inf"):
            deadlines.append(self._began + self._terms.lifetime_s - self._terms.grace_s)
        return max(0.0, min(min(deadlines) - self._clock.monotonic(), 3600.0))

    def _lifetime_over(self) -> bool:
        lifetime = self._terms.lifetime_s
        return (
            lifetime is not None
            and self._stop_by == float("inf")
            and self._clock.monotonic() >= self._began + lifetime - self._terms.grace_s
        )

    def _end_of_lifetime(self) -> None:
        self.drain("the lifetime is over", Ending.WALLTIME)
        why = JobError(
            Code.WALLTIME,
            "the pilot's time was over before the payload's",
            remedy="give the job a `walltime`: it is then started only where it fits",
            transient=True,
        )
        self._stop_all(why, self._terms.grace_s)

    def _interrupt(self, number: signal.Signals) -> None:
        """The first signal gives payloads the grace time, the second none."""
        again = bool(self._interrupts)
        self._interrupts.append(number)
        self.drain(f"got {number.name}", Ending.PREEMPTED)
        why = JobError(
            SIGNALS[number],
            f"the pilot got {number.name} and ended",
            remedy="the job is tried again elsewhere",
        )
        self._stop_all(why, 0.0 if again else self._terms.grace_s)

    def _broken(self, down: Down) -> None:
        """A loop does not recover: take no jobs, run none without a reporter or a supervisor."""
        self.broken = True
        self.drain(str(down), Ending.FAILED)
        if down.loop not in ("acquirer", "cleaner") and self._stop_by == float("inf"):
            why = JobError(Code.INTERNAL, f"the pilot itself failed: {down}", transient=True)
            self._stop_all(why, self._terms.grace_s)

    def _stop_all(self, why: JobError, grace_s: float) -> None:
        self._stop_by = min(self._stop_by, self._clock.monotonic() + grace_s + REPORTING_S)
        for attempt in list(self._jobs):
            attempt.give_back = True
            attempt.stop(why, grace_s=grace_s)

    # jobs ----------------------------------------------------------------------------------------

    def take(self, jobs: Iterable[m.Assignment], at_most_s: float | None = None) -> None:
        """Carry jobs, each in a thread of its own. `at_most_s`: how long they may wait for their
        slots, from now on, before others get them."""
        kit = self._kit
        taken = [Attempt(job, self._changed, self._settled, self._clock) for job in jobs]
        if at_most_s is not None:
            for attempt in taken:
                attempt.waits_until = self._clock.monotonic() + at_most_s
        try:
            kit.journal.begin(
                [begun(attempt, kit, kit.stage.planned(attempt)) for attempt in taken]
            )
        except OSError as error:
            # The leases of a pilot that dies now run out: slower, not lost.
            self._log.error("spool_failed", what=error.strerror)
        except Exception:  # noqa: BLE001 - as above: what has been taken is carried, come what may
            self._log.error("spool_failed", trace=True)
        self.taken += len(taken)
        for attempt in taken:
            self._jobs.add(attempt)
            kit.slots.expect(attempt)
            kit.reporter.add(attempt)
            if self._draining:
                attempt.give_back = True
                attempt.stop(JobError(Code.SIGTERM, "the pilot ends"))
            thread = threading.Thread(
                target=self._carry, args=(attempt,), name=f"job-{attempt.name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                fault = self.no_thread()
                self._log.error("given_back", job_id=attempt.id[0], what=str(fault))
                kit.reporter.release(attempt)
                self._gone(attempt)

    def _carry(self, attempt: Attempt) -> None:
        try:
            carry(attempt, self._kit)
        except BaseException as error:  # noqa: BLE001 - there is no report: let the lease run out
            self._log.error("attempt_lost", trace=True, job_id=attempt.id[0])
            self._kit.reporter.forget(attempt)
            self.broken = True
            self.drain(f"an attempt was lost: {type(error).__name__}: {error}", Ending.FAILED)
        finally:
            self._count_node_fault(attempt)
            self._gone(attempt)

    def _count_node_fault(self, attempt: Attempt) -> None:
        """Rest after a job that failed for what this node lacks, and drain where no job can begin:
        a node that fails each at once would take all jobs of a queue, and each of their
        attempts."""
        if attempt.node_fault is not None:
            self.acquirer.rest()
        elif attempt.began:
            self.acquirer.rested()
        if attempt.began:
            self._node_faults = 0
        elif attempt.node_fault is not None:
            self._node_faults += 1
            if self._node_faults >= MOST_NODE_FAULTS:
                self.broken = True
                self.drain(
                    f"{MOST_NODE_FAULTS} jobs in a row could not begin here, the last one: "
                    f"{attempt.node_fault}",
                    Ending.FAILED,
                )

    def _gone(self, attempt: Attempt) -> None:
        """An attempt is not here any more."""
        if (run_s := attempt.timing.get("run")) is not None:
            self.acquirer.ended(run_s)
        self._kit.slots.gone(attempt)
        # First: whoever sees that no job is here looks at the time next.
        self.idle_since = self._clock.monotonic()
        self._jobs.discard(attempt)
        self._kit.slots.notify()
        self._nudge_if_draining()

    def _nudge_if_draining(self) -> None:
        if self._draining:
            self.nudge()

    def seconds_left(self) -> float | None:
        """Seconds until payloads must end; None: there is no such time."""
        if self._terms.lifetime_s is None:
            return None
        end = self._began + self._terms.lifetime_s - self._terms.grace_s
        return max(0.0, round(end - self._clock.monotonic(), 1))

    def _changed(self, attempt: Attempt) -> None:
        self._kit.reporter.changed(attempt)
        if attempt.kill_at is not None:
            self._kit.supervisor.wake_by(attempt.kill_at)

    def _settled(self, attempt: Attempt) -> None:
        self._kit.journal.settle([attempt.id])
