"""The reporter: one thread that tells the dispatcher about all attempts, and what it answers.

A heartbeat goes out at the interval that the dispatcher tells, and soon after something changed; what
changes together goes together. A final report is repeated until there is a verdict. While nobody
answers, payloads run on and reports wait in the spool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import Room
from ailurus.wire.client import Refused
from pilot.held import Held, killed_by_server
from pilot.link import Link, ToldToGo, backoff
from pilot.livelog import Follower, Rest
from pilot.spool import Id, Journal
from pilot.tail import tail

GATHER_S, APART_S = 0.02, 0.1  # a change waits for others; heartbeats for changes keep apart
LIVE_S = 1.0  # between pieces of a log that somebody watches
BULK = 500
TOGETHER = 1_000_000  # characters of logs in one request; as JSON they may be six times as long
ENDS_BYTES = 32_000_000  # of logs that wait for a dispatcher; of more, only the last words are kept
LAST_WORDS = 2000
ACCEPTED = "accepted"


class Reporter:
    """Everything that goes to the dispatcher but acquires."""

    def __init__(
        self,
        link: Link,
        room: Callable[[], Room],
        delete: Callable[[Sequence[str]], list[str]],
        on_drain: Callable[[str], None],
        grace_s: float,
    ) -> None:
        self._link, self._room, self._delete, self._on_drain = link, room, delete, on_drain
        self._grace_s = grace_s
        self._held: dict[Id, Held] = {}
        self._changed: set[Id] = set()
        self._owed: dict[Id, tuple[m.Report, Journal]] = {}
        self._ends: list[Rest] = []
        self._followers: dict[Id, Follower] = {}  # what has been sent of their logs
        self._followed: dict[Id, float] = {}  # those that somebody watches, until when
        self._released: list[Held] = []
        self._heartbeat_s = link.registered.heartbeat_s
        self._beat_at = time.monotonic() + self._heartbeat_s
        self._changes_at = 0.0
        self._retry_at = 0.0
        self._pauses: Iterator[float] = backoff()
        self._news = threading.Condition()
        self._closed = False
        self._draining = self._drain_told = False
        self.when_quiet: Callable[[], None] = lambda: None  # nothing is owed any more
        self._log = Log("pilot.reporter")

    # what others tell it -------------------------------------------------------------------------

    def hold(self, held: Held) -> None:
        with self._news:
            self._held[held.id] = held

    def changed(self, held: Held) -> None:
        """Something about an attempt is worth telling soon."""
        with self._news:
            if held.id in self._held:
                if not self._changed:
                    self._changes_at = max(time.monotonic() + GATHER_S, self._changes_at)
                self._changed.add(held.id)
                self._news.notify()

    def follow(self, held: Held) -> Follower:
        """The follower of an attempt's output; it is not watched any more."""
        with self._news:
            self._followed.pop(held.id, None)
            return self._followers.pop(held.id, None) or Follower(held)

    def owe(self, report: m.Report, journal: Journal, ends: Rest | None = None) -> None:
        """Send the end of the output, and this report until it is answered."""
        with self._news:
            if ends is not None:
                if sum(one.bytes for one in self._ends) + ends.bytes > ENDS_BYTES:
                    ends.shorten(LAST_WORDS)
                self._ends.append(ends)
            self._owed[report.job_id, report.attempt_nr] = (report, journal)
            self._news.notify()

    def release(self, held: Held) -> None:
        """Give back an attempt that was not begun."""
        with self._news:
            self._released.append(held)
            self._news.notify()

    def drain(self) -> None:
        """Tell the dispatcher, before anything else, that this pilot takes nothing more."""
        with self._news:
            self._draining, self._beat_at = True, 0.0
            self._news.notify()

    def idle(self) -> bool:
        """Whether nothing is owed."""
        return not (self._owed or self._released or self._ends)

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify()

    def flush(self) -> None:
        """Send all reports that are owed, in the caller's thread."""
        self._send_reports()

    # the thread ----------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            with self._news:
                while not self._closed and (left := self._due_in()) > 0:
                    self._news.wait(None if left == float("inf") else left)
                if self._closed:
                    return
            try:
                self._turn()
            except ToldToGo as error:
                self._on_drain(str(error))
                self._pause()
            except Refused as error:
                self._log.error("dispatcher_refused", what=str(error), status=error.status)
                if error.status in (401, 403, 404, 410):
                    self._on_drain(str(error))
                self._pause()
            except AilurusError as error:
                self._log.warning("dispatcher_silent", what=str(error))
                self._pause()
            except Exception:  # noqa: BLE001 - a bug here must not silence the whole pilot
                self._log.error("reporter_failed", trace=True)
                self._pause()
            else:
                self._pauses, self._retry_at = backoff(), 0.0
                if self.idle():
                    self.when_quiet()

    def _due_in(self) -> float:
        now = time.monotonic()
        at = self._beat_at
        if self._changed:
            at = min(at, self._changes_at)
        if self._followed:
            at = min(at, now + LIVE_S)
        if not self.idle():
            at = now
        return max(at, self._retry_at) - now

    def _pause(self) -> None:
        self._retry_at = time.monotonic() + next(self._pauses)

    def _turn(self) -> None:
        if self._draining and not self._drain_told:  # else a job that we report comes back to us
            self._beat(everything=True)
        silent = self._send_ends()
        self._send_reports()
        if silent is not None:
            raise silent
        self._send_released()
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat(everything=True)
        elif self._changed and now >= self._changes_at:
            self._beat(everything=False)
        self._send_followed()

    def _beat(self, *, everything: bool) -> None:
        with self._news:
            ids = list(self._held) if everything else [i for i in self._changed if i in self._held]
            self._changed.clear()
            updates = [self._update(self._held[i]) for i in ids]
        if updates or everything:
            ask = m.Beat(jobs=tuple(updates), room=self._room(), draining=self._draining)
            try:
                answer = self._link.client.call("beat", ask, answer=m.Beaten)
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

    def _update(self, held: Held) -> m.Update:
        told, held.tail = held.tail, None
        return m.Update(
            job_id=held.id[0],
            attempt_nr=held.id[1],
            state=held.state,
            since=held.since,
            usage=held.usage,
            tail=told,
        )

    def _obey(self, command: m.Command) -> None:
        held = self._held.get((command.job_id, command.attempt_nr))
        if held is None or held.id in self._owed:
            return
        self._log.info("told", job_id=command.job_id, action=command.action)
        if command.action is m.Action.KILL:
            held.stop(killed_by_server(), grace_s=self._grace_s)
        elif command.action is m.Action.SOFT_KILL:
            held.ask_to_end()
        elif command.action is m.Action.TAIL:
            held.tail = tail(held, command.argument)
            self.changed(held)
        elif command.action is m.Action.LOG:
            seconds = float(command.argument or 0) or 2 * self._heartbeat_s
            self._followers.setdefault(held.id, Follower(held))
            self._followed[held.id] = time.monotonic() + seconds + self._heartbeat_s

    def _send_reports(self) -> None:
        while batch := list(self._owed.values())[:BULK]:
            for report, _ in batch:
                if report.ended == 0:
                    raise ValueError("a report without its time")
            self._judge(batch, self._ask_verdicts([report for report, _ in batch]))

    def _ask_verdicts(self, reports: list[m.Report]) -> tuple[m.Verdict, ...]:
        try:
            ask = m.Reports(reports=tuple(reports))
            return self._link.reports.call("report", ask, answer=m.Verdicts).verdicts
        except Refused as error:
            if error.status in (401, 403, 404) or error.status >= 500:
                raise
            if len(reports) > 1:  # one of them is at fault, and must not hold up the others
                return tuple(v for report in reports for v in self._ask_verdicts([report]))
            one = reports[0]
            self._log.error("report_refused", job_id=one.job_id, what=str(error))
            return (m.Verdict(job_id=one.job_id, attempt_nr=one.attempt_nr, verdict="refused"),)

    def _judge(self, batch: list[tuple[m.Report, Journal]], verdicts: Sequence[m.Verdict]) -> None:
        said = {(v.job_id, v.attempt_nr): v.verdict for v in verdicts}
        for report, journal in batch:
            one = (report.job_id, report.attempt_nr)
            verdict = said.get(one)
            if verdict is None:
                continue
            if verdict != ACCEPTED:
                self._log.info("report_not_counted", job_id=one[0], attempt_nr=one[1], why=verdict)
                self._delete([file.url for file in report.files])
            journal.settle([one])
            with self._news:
                self._owed.pop(one, None)
                self._held.pop(one, None)
                self._changed.discard(one)
                self._followed.pop(one, None)
                self._followers.pop(one, None)
        if not said:
            raise ValueError("an answer without verdicts")

    def _send_ends(self) -> AilurusError | None:
        """Send the ends of logs, until they have come. Why nobody took them, for reports do not wait
        for logs."""
        while batch := self._next_ends():
            try:
                self._pieces([piece for _, piece in batch])
            except Refused as error:
                self._log.error("log_refused", what=str(error))
            except AilurusError as error:
                return error
            with self._news:
                for rest, _ in batch:
                    rest.sent()
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
        self._link.client.call("log_pieces", m.LogPieces(pieces=tuple(pieces)), answer=m.Done)

    def _send_released(self) -> None:
        with self._news:
            released = list(self._released)
        if not released:
            return
        jobs = tuple(m.HeldJob(job_id=held.id[0], attempt_nr=held.id[1]) for held in released)
        self._link.client.call("release", m.Release(jobs=jobs), answer=m.Done)
        with self._news:
            for held in released:
                self._released.remove(held)
                self._held.pop(held.id, None)
                held.settle()
