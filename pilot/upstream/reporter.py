"""The reporter: one thread that tells the dispatcher about all attempts, and what it answers.

A heartbeat goes out at the interval that the dispatcher tells, and soon after something changed; what
changes together goes together. A final report is repeated until there is a verdict of the dispatcher that
gave the attempt (`ailurus.wire.authority`). While nobody answers, or only somebody else, payloads run
on, reports wait in the spool and outputs stay.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from ailurus.logs import Log, Seldom
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import Room
from ailurus.wire import authority
from ailurus.wire.authority import Judged
from ailurus.wire.client import Refused
from ailurus.wire.retry import Patience, pauses
from pilot.attempt import Attempt, killed_by_server
from pilot.files.live_log import Follower, Rest
from pilot.files.tail import tail
from pilot.upstream.link import Dismissed, Link, backoff
from pilot.upstream.spool import Id, Journal

GATHER_S, APART_S = 0.02, 0.1  # a change waits for others; heartbeats for changes keep apart
LIVE_S = 1.0  # between pieces of a log that somebody watches
BULK = 500
TOGETHER = 1_000_000  # characters of logs in one request; as JSON they may be six times as long
ENDS_BYTES = 32_000_000  # of logs that wait for a dispatcher; of more, only the last words are kept
LAST_WORDS = 2000
# Between tries to send reports that were refused.
REFUSED = Patience(first_s=0.5, longest_s=60.0)
# A pilot that has nothing else to do waits no longer for the verdict about its own: they are in the spool.
WAITS_S = 3600.0


class PendingReport(Struct, eq=False):
    """A report that is owed. `refused`: since when (`time.monotonic`) only strangers judge it."""

    report: m.Report
    journal: Journal
    seal: str
    adopted: bool
    refused: float | None = None

    @property
    def id(self) -> Id:
        return self.report.job_id, self.report.attempt_nr


class Reporter:
    """Everything that goes to the dispatcher but acquires."""

    def __init__(
        self,
        link: Link,
        room: Callable[[], Room],
        delete: Callable[[Sequence[str]], list[str]],
        on_drain: Callable[[str], None],
        grace_s: float,
        waits_s: float = WAITS_S,
    ) -> None:
        self._link, self._room, self._delete, self._on_drain = link, room, delete, on_drain
        self._grace_s, self._waits_s = grace_s, waits_s
        self._attempts: dict[Id, Attempt] = {}
        self._changed: set[Id] = set()
        self._owed: dict[Id, PendingReport] = {}
        self._refused_at = 0.0  # when refused reports are sent again
        self._refusals: Iterator[float] = _apart()
        self._why_refused = ""
        self._ends: list[Rest] = []
        self._ends_refused: float | None = None  # since when nobody takes them (`time.monotonic`)
        self._followers: dict[Id, Follower] = {}  # what has been sent of their logs
        self._followed: dict[Id, float] = {}  # those that somebody watches, until when
        self._released: list[Attempt] = []
        self._heartbeat_s = link.registered.heartbeat_s
        self._beat_at = time.monotonic() + self._heartbeat_s
        self._changes_at = 0.0
        self._retry_at = 0.0
        self._pauses: Iterator[float] = backoff()
        self._news = threading.Condition()
        self.closed = False
        self._draining = self._drain_told = False
        self.when_quiet: Callable[[], None] = lambda: None  # nothing is owed any more
        self._log = Log("pilot.upstream.reporter")
        self._trouble = Seldom(self._log)

    # what others tell it -------------------------------------------------------------------------

    def hold(self, attempt: Attempt) -> None:
        with self._news:
            self._attempts[attempt.id] = attempt

    def changed(self, attempt: Attempt) -> None:
        """Something about an attempt is worth telling soon."""
        with self._news:
            if attempt.id in self._attempts:
                if not self._changed:
                    self._changes_at = max(time.monotonic() + GATHER_S, self._changes_at)
                self._changed.add(attempt.id)
                self._news.notify()

    def follow(self, attempt: Attempt) -> Follower:
        """The follower of an attempt's output; it is not watched any more."""
        with self._news:
            self._followed.pop(attempt.id, None)
            return self._followers.pop(attempt.id, None) or Follower(attempt)

    def owe(
        self,
        report: m.Report,
        journal: Journal,
        ends: Rest | None = None,
        *,
        seal: str,
        adopted: bool = False,
    ) -> None:
        """Send the end of the output, and this report until the dispatcher that gave the attempt has
        judged it. `seal`: what it gave with it; `adopted`: of a dead pilot, so that this one need not wait
        for the verdict."""
        with self._news:
            if ends is not None and not ends.over:
                if sum(one.bytes for one in self._ends) + ends.bytes > ENDS_BYTES:
                    ends.shorten(LAST_WORDS)
                self._ends.append(ends)
            self._owed[report.job_id, report.attempt_nr] = PendingReport(
                report, journal, seal, adopted
            )
            self._news.notify()

    def forget(self, attempt: Attempt) -> None:
        """Say nothing more of an attempt: its lease runs out."""
        with self._news:
            self._attempts.pop(attempt.id, None)
            self._changed.discard(attempt.id)

    def release(self, attempt: Attempt) -> None:
        """Give back an attempt that was not begun."""
        with self._news:
            self._released.append(attempt)
            self._news.notify()

    def drain(self) -> None:
        """Tell the dispatcher, before anything else, that this pilot takes nothing more."""
        with self._news:
            self._draining, self._beat_at = True, 0.0
            self._news.notify()

    def idle(self) -> bool:
        """Whether nothing is owed that the pilot must wait for."""
        ends = self._ends and not self._waited(self._ends_refused)
        owed = any(
            one.refused is None or not (one.adopted or self._waited(one.refused))
            for one in list(self._owed.values())
        )
        return not (self._released or ends or owed)

    def owes(self) -> int:
        """How many reports have not been judged."""
        return len(self._owed)

    def _waited(self, since: float | None) -> bool:
        return since is not None and time.monotonic() - since >= self._waits_s

    def close(self) -> None:
        with self._news:
            self.closed = True
            self._news.notify()

    def flush(self) -> None:
        """Send all reports that are owed, in the caller's thread. Raises AilurusError if any is kept."""
        self._send_reports()
        if self._owed:
            raise AilurusError(
                f"{len(self._owed)} reports stay in the spool: {self._why_refused}",
                remedy="they are for another dispatcher, or its address is another's now",
            )

    # the thread ----------------------------------------------------------------------------------

    def run(self, loop: Loop) -> None:
        while True:
            loop.turned(None)
            with self._news:
                while not self.closed and (left := self._due_in()) > 0:
                    self._news.wait(None if left == float("inf") else left)
                if self.closed:
                    return
            try:
                self._turn()
            except Dismissed as error:
                self._trouble.warning("dispatcher_refused", str(error))
                self._on_drain(str(error))
                self._pause()
            except AilurusError as error:
                self._trouble.warning("dispatcher_silent", str(error))
                self._pause()
            else:
                self._pauses, self._retry_at = backoff(), 0.0
                if self._trouble.over("dispatcher_silent"):
                    self._refused_at = 0.0  # it is back, before it gives the same jobs to others
            if self.idle():
                self.when_quiet()

    def _due_in(self) -> float:
        now = time.monotonic()
        at = self._beat_at
        refused = [one.refused for one in self._owed.values() if one.refused is not None]
        if refused:
            at = min(at, self._refused_at)
        if self._changed:
            at = min(at, self._changes_at)
        if self._followed:
            at = min(at, now + LIVE_S)
        if self._released or self._ends or len(refused) < len(self._owed):
            at = now
        return max(at, self._retry_at) - now

    def _pause(self) -> None:
        self._retry_at = time.monotonic() + next(self._pauses)

    def _turn(self) -> None:
        if self._draining and not self._drain_told:  # else a job that we report comes back to us
            self._beat(everything=True)
        silent = self._send_ends()
        self._send_reports()
        self._send_released()
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat(everything=True)
        elif self._changed and now >= self._changes_at:
            self._beat(everything=False)
        self._send_followed()
        if silent is not None:
            raise silent

    def _beat(self, *, everything: bool) -> None:
        with self._news:
            ids = (
                list(self._attempts)
                if everything
                else [i for i in self._changed if i in self._attempts]
            )
            self._changed.clear()
            updates = [self._update(self._attempts[i]) for i in ids]
        if updates or everything:
            ask = m.Beat(jobs=tuple(updates), room=self._room(), draining=self._draining)
            try:
                answer = self._link.call("beat", ask, answer=m.BeatAnswer)
            except AilurusError:
                with self._news:
                    self._changed.update(ids)
                raise
            self._heartbeat_s = answer.heartbeat_s
            self._drain_told |= ask.draining
            if answer.drain:
                self._on_drain("the dispatcher drains this worker")
            for command in answer.commands:
                self._obey(command)
        now = time.monotonic()
        self._changes_at = max(self._changes_at, now + APART_S)
        if everything:
            self._beat_at = now + self._heartbeat_s
        else:
            self._beat_at = min(self._beat_at, now + self._heartbeat_s)

    def _update(self, attempt: Attempt) -> m.Update:
        told, attempt.tail = attempt.tail, None
        return m.Update(
            job_id=attempt.id[0],
            attempt_nr=attempt.id[1],
            state=attempt.state,
            since=attempt.since,
            usage=attempt.usage,
            tail=told,
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
        self._log.info("told", job_id=command.job_id, action=command.action)
        if command.action is m.Action.KILL:
            attempt.stop(killed_by_server(), grace_s=self._grace_s)
        elif command.action is m.Action.SOFT_KILL:
            attempt.terminate()
        elif command.action is m.Action.TAIL:
            attempt.tail = tail(attempt, command.argument)
            self.changed(attempt)
        elif command.action is m.Action.LOG:
            seconds = float(command.argument or 0) or 2 * self._heartbeat_s
            self._followers.setdefault(attempt.id, Follower(attempt))
            self._followed[attempt.id] = time.monotonic() + seconds + self._heartbeat_s

    def _send_reports(self) -> None:
        again = time.monotonic() >= self._refused_at
        with self._news:
            due = [one for one in self._owed.values() if again or one.refused is None]
        for start in range(0, len(due), BULK):
            batch = due[start : start + BULK]
            self._judge(batch, self._ask_verdicts(batch))
        kept = [one for one in list(self._owed.values()) if one.refused is not None]
        if not kept:
            self._refused_at = 0.0
            if self._trouble.over("reports_kept"):
                self._refusals = _apart()
        elif again:
            self._refused_at = time.monotonic() + next(self._refusals)
            self._trouble.warning("reports_kept", self._why_refused, reports=len(kept))

    def _ask_verdicts(self, batch: list[PendingReport]) -> tuple[m.ReportVerdict, ...]:
        """What was said about them; of those that are refused, nothing."""
        try:
            ask = m.Reports(reports=tuple(one.report for one in batch))
            return self._link.reports.call("report", ask, answer=m.ReportVerdicts).verdicts
        except Refused as error:
            if len(batch) > 1 and authority.divisible(error):
                half = len(batch) // 2  # one of them is at fault, and must not hold up the others
                return self._ask_verdicts(batch[:half]) + self._ask_verdicts(batch[half:])
            self._why_refused = str(error)
            return ()

    def _judge(self, batch: list[PendingReport], verdicts: Sequence[m.ReportVerdict]) -> None:
        said = {(one.job_id, one.attempt_nr): one for one in verdicts}
        for one in batch:
            verdict = said.get(one.id)
            judged = Judged.KEPT if verdict is None else authority.judged(one.seal, verdict)
            if judged is Judged.KEPT:
                one.refused = time.monotonic() if one.refused is None else one.refused
                if verdict is not None:
                    self._why_refused = (
                        f"`{verdict.verdict}` from a server that does not know the attempts"
                    )
                continue
            self._settle(one, judged, "" if verdict is None else verdict.verdict)

    def _settle(self, one: PendingReport, judged: Judged, why: str) -> None:
        urls = [file.url for file in one.report.files]
        if why != authority.ACCEPTED:
            deleted = judged is Judged.LOST
            self._log.info(
                "report_not_counted",
                job_id=one.id[0],
                attempt_nr=one.id[1],
                why=why,
                left=[] if deleted else urls,
            )
            if deleted:
                self._delete(urls)
        one.journal.settle([one.id])
        with self._news:
            if self._owed.get(one.id) is one:
                del self._owed[one.id]
            self._attempts.pop(one.id, None)
            self._changed.discard(one.id)
            self._followed.pop(one.id, None)
            self._followers.pop(one.id, None)

    def _send_ends(self) -> AilurusError | None:
        """Send the ends of logs, until they have come. Why nobody took them, for reports do not wait
        for logs."""
        while batch := self._next_ends():
            try:
                self._pieces([piece for _, piece in batch])
            except Refused as error:
                self._log.error("log_refused", what=str(error))
            except AilurusError as error:
                if self._ends_refused is None:
                    self._ends_refused = time.monotonic()
                return error
            with self._news:
                for rest, _ in batch:
                    rest.sent()
        self._ends_refused = None
        return None

    def _next_ends(self) -> list[tuple[Rest, m.LogPiece]]:
        """The next piece of each log, as many as go together; forgets those that have none left."""
        batch: list[tuple[Rest, m.LogPiece]] = []
        size = 0
        with self._news:
            for rest in list(self._ends):
                piece = rest.first()
                if piece is None:
                    rest.close()
                    self._ends.remove(rest)
                    continue
                if batch and (size + len(piece.text) > TOGETHER or len(batch) == BULK):
                    break
                batch.append((rest, piece))
                size += len(piece.text)
        return batch

    def _send_followed(self) -> None:
        now = time.monotonic()
        for one, until in list(self._followed.items()):
            follower = self._followers.get(one)
            if follower is not None and (pieces := follower.news()):
                try:
                    self._pieces(pieces)
                except AilurusError as error:  # a live log is a service; its end comes in any case
                    self._log.info("log_not_sent", what=str(error))
            if follower is None or now > until:
                self._followed.pop(one, None)

    def _pieces(self, pieces: list[m.LogPiece]) -> None:
        self._link.call("log_pieces", m.LogPieces(pieces=tuple(pieces)), answer=m.Done)

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
        except Refused as error:  # they stay in the spool: the next pilot reports them as killed
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
