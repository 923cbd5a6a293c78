"""The reporter: one thread that reports all attempts to the dispatcher, and obeys its answers.

A heartbeat goes out at the interval that the dispatcher sets, and soon after something changed;
changes that come together go in one. A final report is repeated until there is a verdict of the
dispatcher that gave the attempt (`ailurus.wire.authority`). While no server answers, or only
another one, payloads run on, reports wait in the spool and outputs stay.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from ailurus.logs import Log, ThrottledLog
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.resources import Room
from ailurus.protocol.states import ReportOutcome
from ailurus.wire import authority
from ailurus.wire.authority import Judged
from ailurus.wire.client import Refused
from ailurus.wire.retry import Patience, pauses
from pilot.attempt import Attempt, killed_by_server
from pilot.clock import SYSTEM, Clock
from pilot.files.live_log import Follower, Rest
from pilot.files.tail import tail
from pilot.upstream.cleaner import Cleaner
from pilot.upstream.link import Dismissed, Link, backoff
from pilot.upstream.log_sender import LogSender
from pilot.upstream.spool import Id, Journal

# A change waits so long for more of them; heartbeats for changes are so far apart.
GATHER_S, APART_S = 0.02, 0.1
# Between pieces of a log that a user watches.
LIVE_S = 1.0
# Reports in one request.
BULK = 500
# Between tries to send reports that were refused.
REFUSED = Patience(first_s=0.5, longest_s=60.0)
# A pilot that has nothing else to do waits so long for verdicts about its reports: they are in the
# spool.
VERDICT_WAIT_S = 3600.0


class Service(Protocol):
    """The service whose attempts are reported."""

    def room(self) -> Room:
        """The room that is free for more jobs."""

    def occupancy(self) -> m.Occupancy:
        """The nodes, and what became of their core-seconds."""

    def drain(self, why: str) -> None:
        """Take no more jobs: the dispatcher said so, or dismissed this pilot."""

    def reports_settled(self) -> None:
        """Called when the pilot need not wait for any report."""


class PendingReport(Struct, eq=False):
    """A report without a verdict. `refused`: since when (monotonic) only unknown servers judge
    it."""

    report: m.Report
    journal: Journal
    seal: str
    adopted: bool
    refused: float | None = None

    @property
    def id(self) -> Id:
        return self.report.job_id, self.report.attempt_nr


class Reporter:
    """Sends all requests to the dispatcher but acquires."""

    def __init__(
        self,
        link: Link,
        delete: Callable[[Sequence[str]], list[str]],
        *,
        grace_s: float = 0.0,
        verdict_wait_s: float = VERDICT_WAIT_S,
        clock: Clock = SYSTEM,
    ) -> None:
        """`delete` removes files of attempts that do not count, and returns those that are left;
        `grace_s` is between TERM and KILL."""
        self._link, self._clock = link, clock
        self.cleaner = Cleaner(delete, clock)
        self._grace_s, self._verdict_wait_s = grace_s, verdict_wait_s
        self._logs = LogSender(link, clock)
        self._attempts: dict[Id, Attempt] = {}
        self._changed: set[Id] = set()
        self._owed: dict[Id, PendingReport] = {}
        # When refused reports are sent again.
        self._refused_at = 0.0
        self._refusals: Iterator[float] = _apart()
        self._why_refused = ""
        self._released: list[Attempt] = []
        self._heartbeat_s = link.registered.heartbeat_s
        self._beat_at = self._clock.monotonic() + self._heartbeat_s
        self._changes_at = 0.0
        self._retry_at = 0.0
        self._pauses: Iterator[float] = backoff()
        self._news = threading.Condition()
        self.closed = False
        self._draining = self._drain_reported = False
        self._log = Log("pilot.upstream.reporter")
        self._trouble = ThrottledLog(self._log)

    # for the threads of attempts -----------------------------------------------------------------

    def add(self, attempt: Attempt) -> None:
        """Report this attempt with each heartbeat from now on."""
        with self._news:
            self._attempts[attempt.id] = attempt

    def watches(self, attempt: Attempt) -> bool:
        """Whether users watch its output."""
        return self._logs.is_watched(attempt)

    def changed(self, attempt: Attempt) -> None:
        """Report an attempt soon: something about it has changed."""
        with self._news:
            if attempt.id in self._attempts:
                if not self._changed:
                    self._changes_at = max(self._clock.monotonic() + GATHER_S, self._changes_at)
                self._changed.add(attempt.id)
                self._news.notify()

    def follow(self, attempt: Attempt) -> Follower:
        """Take the follower of an attempt's output, which is watched no more."""
        return self._logs.follower_of(attempt)

    def owe(
        self,
        report: m.Report,
        journal: Journal,
        ends: Rest | None = None,
        *,
        seal: str,
        adopted: bool = False,
        leftovers: Sequence[str] = (),
        since: float = 0.0,
    ) -> None:
        """Send the end of the output, and this report until the dispatcher that gave the attempt
        has judged it. `seal` came with the attempt; `adopted` says that a dead pilot left the
        report, so that this one need not wait for the verdict; `leftovers` are files to remove, of
        `since`, seconds since 1970 (0: now)."""
        self.cleaner.remove((report.job_id, report.attempt_nr), leftovers, journal, since)
        if ends is not None and not ends.over:
            self._logs.add_end(ends)
        with self._news:
            self._owed[report.job_id, report.attempt_nr] = PendingReport(
                report, journal, seal, adopted
            )
            self._news.notify()

    def forget(self, attempt: Attempt) -> None:
        """Report an attempt no more, so that its lease runs out."""
        with self._news:
            self._attempts.pop(attempt.id, None)
            self._changed.discard(attempt.id)

    def release(self, attempt: Attempt) -> None:
        """Give back an attempt that was not begun."""
        with self._news:
            self._released.append(attempt)
            self._news.notify()

    def drain(self) -> None:
        """Report to the dispatcher, before anything else, that this pilot takes no more jobs."""
        with self._news:
            self._draining = True
            self._news.notify()

    def idle(self) -> bool:
        """Whether nothing is owed that the pilot must wait for."""
        ends = self._logs.has_ends and not self._waited_enough(self._logs.refused_since)
        owed = any(
            one.refused is None or not (one.adopted or self._waited_enough(one.refused))
            for one in list(self._owed.values())
        )
        return not (self._released or ends or owed) and self.cleaner.idle()

    def owes(self) -> int:
        """How many reports have not been judged, and of how many attempts files are left."""
        return len(self._owed) + self.cleaner.owes()

    def _waited_enough(self, since: float | None) -> bool:
        return since is not None and self._clock.monotonic() - since >= self._verdict_wait_s

    def close(self) -> None:
        self.cleaner.close()
        with self._news:
            self.closed = True
            self._news.notify()

    def flush(self) -> None:
        """Send all reports in the caller's thread, and remove files. Raises AilurusError if any
        gets no verdict, or is left."""
        self._send_reports()
        self.cleaner.turn()
        if self._owed:
            raise AilurusError(
                f"{len(self._owed)} reports stay in the spool: {self._why_refused}",
                remedy="they are for another dispatcher, or its address is another's now",
            )
        if left := self.cleaner.owes():
            raise AilurusError(
                f"files of {left} attempts that do not count could not be removed",
                remedy="does the storage answer? They are tried again",
            )

    # the thread ----------------------------------------------------------------------------------

    def run(self, loop: Loop, service: Service) -> None:
        """The thread: until `close`."""
        while True:
            loop.turned(None)
            with self._news:
                while not self.closed and (left := self._due_in()) > 0:
                    self._clock.wait(self._news, None if left == float("inf") else left)
                if self.closed:
                    return
            self.turn(service)

    def turn(self, service: Service) -> None:
        """Send what is due. A dispatcher that does not answer is asked again after a pause that
        grows."""
        try:
            self._send(service)
        except Dismissed as error:
            self._trouble.warning("dispatcher_refused", str(error))
            service.drain(str(error))
            self._pause()
        except AilurusError as error:
            self._trouble.warning("dispatcher_silent", str(error))
            self._pause()
        else:
            self._pauses, self._retry_at = backoff(), 0.0
            if self._trouble.resolved("dispatcher_silent"):
                # It is back: report before it gives the same jobs to other pilots.
                self._refused_at = 0.0
        if self.idle():
            service.reports_settled()

    def _due_in(self) -> float:
        now = self._clock.monotonic()
        at = self._beat_at
        refused = [one.refused for one in self._owed.values() if one.refused is not None]
        if refused:
            at = min(at, self._refused_at)
        if self._changed:
            at = min(at, self._changes_at)
        if self._logs.has_watched:
            at = min(at, now + LIVE_S)
        drain_due = self._draining and not self._drain_reported
        if drain_due or self._released or self._logs.has_ends or len(refused) < len(self._owed):
            at = now
        return max(at, self._retry_at) - now

    def _pause(self) -> None:
        self._retry_at = self._clock.monotonic() + next(self._pauses)

    def _send(self, service: Service) -> None:
        if self._draining and not self._drain_reported:
            # Before reports: a job that we report as failed would come back to us.
            self._beat(service, everything=True)
        silent = self._logs.send_ends()
        self._send_reports()
        self._send_released()
        now = self._clock.monotonic()
        if now >= self._beat_at:
            self._beat(service, everything=True)
        elif self._changed and now >= self._changes_at:
            self._beat(service, everything=False)
        self._logs.send_watched()
        if silent is not None:
            raise silent

    def _beat(self, service: Service, *, everything: bool) -> None:
        with self._news:
            ids = (
                list(self._attempts)
                if everything
                else [i for i in self._changed if i in self._attempts]
            )
            self._changed.clear()
            updates = [self._update(self._attempts[i]) for i in ids]
        if updates or everything:
            beat = m.Beat(
                jobs=tuple(updates),
                room=service.room(),
                draining=self._draining,
                occupancy=service.occupancy() if everything else None,
            )
            try:
                answer = self._link.call("beat", beat, answer=m.BeatAnswer)
            except AilurusError:
                with self._news:
                    self._changed.update(ids)
                raise
            self._heartbeat_s = answer.heartbeat_s
            # A dispatcher that drains the pilot knows.
            self._drain_reported |= beat.draining or answer.drain
            if answer.drain:
                service.drain("the dispatcher drains this worker")
            for command in answer.commands:
                self._obey(command)
        now = self._clock.monotonic()
        self._changes_at = max(self._changes_at, now + APART_S)
        if everything:
            self._beat_at = now + self._heartbeat_s
        else:
            self._beat_at = min(self._beat_at, now + self._heartbeat_s)

    def _update(self, attempt: Attempt) -> m.Update:
        tail_text, attempt.tail = attempt.tail, None
        staging = attempt.staging
        return m.Update(
            job_id=attempt.id[0],
            attempt_nr=attempt.id[1],
            state=attempt.state,
            since=attempt.since,
            usage=attempt.used(),
            tail=tail_text,
            staging=None if staging is None else staging.now(),
            held=attempt.held,
        )

    def _obey(self, command: m.Command) -> None:
        attempt = self._attempts.get((command.job_id, command.attempt_nr))
        if attempt is None or attempt.id in self._owed:
            return
        ends = command.action in (m.Action.KILL, m.Action.SOFT_KILL)
        if ends and not authority.sealed(attempt.assignment.seal, command.seal):
            what = f"{command.action} from a server that does not know attempt {attempt.name}"
            self._trouble.warning("command_not_obeyed", what)
            return
        self._log.info("command_received", job_id=command.job_id, action=command.action)
        if command.action is m.Action.KILL:
            attempt.stop(killed_by_server(), grace_s=self._grace_s)
        elif command.action is m.Action.SOFT_KILL:
            attempt.terminate()
        elif command.action is m.Action.TAIL:
            attempt.tail = tail(attempt, command.argument)
            self.changed(attempt)
        elif command.action is m.Action.LOG:
            seconds = float(command.argument or 0) or 2 * self._heartbeat_s
            self._logs.watch(attempt, self._clock.monotonic() + seconds + self._heartbeat_s)

    def _send_reports(self) -> None:
        again = self._clock.monotonic() >= self._refused_at
        with self._news:
            due = [one for one in self._owed.values() if again or one.refused is None]
        for start in range(0, len(due), BULK):
            batch = due[start : start + BULK]
            self._judge(batch, self._verdicts_of(batch))
        kept = [one for one in list(self._owed.values()) if one.refused is not None]
        if not kept:
            self._refused_at = 0.0
            if self._trouble.resolved("reports_kept"):
                self._refusals = _apart()
        elif again:
            self._refused_at = self._clock.monotonic() + next(self._refusals)
            self._trouble.warning("reports_kept", self._why_refused, reports=len(kept))

    def _verdicts_of(self, batch: list[PendingReport]) -> tuple[m.ReportVerdict, ...]:
        """The verdicts about these reports; there is none about those that are refused."""
        try:
            reports = m.Reports(reports=tuple(one.report for one in batch))
            return self._link.reports.call("report", reports, answer=m.ReportVerdicts).verdicts
        except Refused as error:
            if len(batch) > 1 and authority.divisible(error):
                # One of them is at fault, and must not delay the rest.
                half = len(batch) // 2
                return self._verdicts_of(batch[:half]) + self._verdicts_of(batch[half:])
            self._why_refused = str(error)
            return ()

    def _judge(self, batch: list[PendingReport], verdicts: Sequence[m.ReportVerdict]) -> None:
        verdict_of = {(one.job_id, one.attempt_nr): one for one in verdicts}
        for one in batch:
            verdict = verdict_of.get(one.id)
            judged = Judged.KEPT if verdict is None else authority.judged(one.seal, verdict)
            if judged is Judged.KEPT:
                one.refused = self._clock.monotonic() if one.refused is None else one.refused
                if verdict is not None:
                    self._why_refused = (
                        f"`{verdict.verdict}` from a server that does not know the attempts"
                    )
                continue
            self._settle(one, judged, "" if verdict is None else verdict.verdict)

    def _settle(self, one: PendingReport, judged: Judged, why: str) -> None:
        urls = [file.url for file in one.report.files]
        if why != ReportOutcome.ACCEPTED:
            deleted = judged is Judged.LOST
            self._log.info(
                "report_not_counted",
                job_id=one.id[0],
                attempt_nr=one.id[1],
                why=why,
                left=[] if deleted else urls,
            )
            if deleted:
                self.cleaner.remove(one.id, urls, one.journal, one.report.ended)
        self.cleaner.settle(one.id, one.journal)
        self._logs.forget(one.id)
        with self._news:
            if self._owed.get(one.id) is one:
                del self._owed[one.id]
            self._attempts.pop(one.id, None)
            self._changed.discard(one.id)

    def _send_released(self) -> None:
        with self._news:
            released = list(self._released)
        if not released:
            return
        jobs = tuple(
            m.AttemptKey(job_id=attempt.id[0], attempt_nr=attempt.id[1]) for attempt in released
        )
        refused = ""
        try:
            self._link.call("release", m.Release(jobs=jobs), answer=m.Done)
        except Refused as error:
            # They stay in the spool: the next pilot reports them as killed.
            refused = str(error)
            self._log.error("release_refused", what=refused)
        with self._news:
            for attempt in released:
                self._released.remove(attempt)
                self._attempts.pop(attempt.id, None)
                if not refused:
                    attempt.settle()


def _apart() -> Iterator[float]:
    return pauses(REFUSED, random.Random())
