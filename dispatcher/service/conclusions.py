"""Final reports of attempts, each authorised by its own key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.states import MAY_COME_BACK, REPORTED, ReportOutcome
from dispatcher.auth.caller import Caller
from dispatcher.memory.leases import Lease
from dispatcher.ports import Ahead, Tx
from dispatcher.rules import attempts, items, records, retention
from dispatcher.service.items import PART
from dispatcher.service.nodes import Nodes
from dispatcher.service.seals import Seals
from dispatcher.service.state import State

_encode = msgspec.json.Encoder().encode
# Reports of one request that are looked for among jobs that were moved away.
LATE = 10


class Conclusions:
    """Takes final reports."""

    def __init__(self, state: State, seals: Seals, nodes: Nodes) -> None:
        self._state = state
        self._seals = seals
        self._nodes = nodes

    async def report(self, ask: m.Reports, caller: Caller) -> m.ReportVerdicts:
        """Final reports, each authorised by its own key."""

        def change(tx: Tx) -> list[m.ReportVerdict]:
            return [self._conclude(tx, report) for report in ask.reports]

        for report in ask.reports:
            for at in range(0, len(report.items), PART):
                part = report.items[at : at + PART]
                await self._state.store.write(
                    lambda tx, report=report, part=part: self._told(tx, report, part),  # type: ignore[misc]
                    Ahead([report.job_id], attempts=True, rows=len(part)),
                )
        held = {report.job_id: self._state.leases.of(report.job_id) for report in ask.reports}
        files = sum(len(report.files) for report in ask.reports)
        ahead = Ahead([report.job_id for report in ask.reports], attempts=True, rows=files)
        verdicts = await self._state.store.write(change, ahead)
        for report, verdict in zip(ask.reports, verdicts, strict=True):
            if verdict.verdict == ReportOutcome.ACCEPTED:
                await self._forget(report, held[report.job_id])
        strange = [nr for nr, verdict in enumerate(verdicts) if not verdict.seal][:LATE]
        if strange:
            late = await self._state.store.read(
                lambda tx: [self._judged_long_ago(tx, ask.reports[nr]) for nr in strange]
            )
            for nr, judged in zip(strange, late, strict=True):
                verdicts[nr] = verdicts[nr] if judged is None else judged
        return m.ReportVerdicts(verdicts=tuple(verdicts))

    async def _forget(self, report: m.Report, lease: Lease | None) -> None:
        """Drop from memory what an accepted report has ended; `lease` was its job's before. A
        report that comes again leaves a newer attempt alone, unless it says that the job has
        finished."""
        if report.finished:
            self._state.leases.drop(report.job_id)
        else:
            self._state.leases.drop_attempt(report.job_id, report.attempt_nr)
        self._state.log_arrived(report.job_id)
        own = lease is not None and lease.attempt_nr == report.attempt_nr
        if lease is None or not (report.finished or own):
            return
        worker = self._state.live.get(lease.worker_id)
        if worker is not None:
            worker.ended += 1
            if worker.waits is not None and not worker.waits.done():
                worker.waits.set_result(None)
        if own:
            await self._nodes.count(lease, report)

    def _judged_long_ago(self, tx: Tx, report: m.Report) -> m.ReportVerdict | None:
        """The verdict about an attempt of a job that was moved away since: its sender would keep it
        else."""
        detail = retention.kept(tx, report.job_id)
        for one in detail.attempts if detail is not None else ():
            key, seal = self._seals.of_attempt(report.job_id, one.attempt_nr, one.worker_id)
            if one.attempt_nr == report.attempt_nr and hmac.compare_digest(
                key.encode(), report.report_key.encode()
            ):
                counted = one.state in REPORTED
                outcome = ReportOutcome.ACCEPTED if counted else ReportOutcome.ALREADY_DONE
                return m.ReportVerdict(
                    job_id=report.job_id,
                    attempt_nr=report.attempt_nr,
                    verdict=outcome,
                    seal=seal,
                )
        return None

    def _told(self, tx: Tx, report: m.Report, ended: Sequence[m.ItemEnd]) -> None:
        """Take ends of items that come with a report under its attempt's key."""
        job = records.find_job(tx, report.job_id)
        attempt = records.find_attempt(tx, report.job_id, report.attempt_nr)
        if job is None or attempt is None or attempt.state not in MAY_COME_BACK:
            return
        key, _ = self._seals.of_attempt(report.job_id, report.attempt_nr, attempt.worker_id)
        if hmac.compare_digest(key.encode(), report.report_key.encode()):
            items.tell(tx, job, report.attempt_nr, (), ended)

    def _conclude(self, tx: Tx, report: m.Report) -> m.ReportVerdict:
        """A verdict; under the attempt's seal if the attempt is known and the key is its own."""
        attempt = records.find_attempt(tx, report.job_id, report.attempt_nr)
        worker_id = attempt.worker_id if attempt is not None else 0
        key, seal = self._seals.of_attempt(report.job_id, report.attempt_nr, worker_id)
        if attempt is None or not hmac.compare_digest(key.encode(), report.report_key.encode()):
            return m.ReportVerdict(
                job_id=report.job_id, attempt_nr=report.attempt_nr, verdict=ReportOutcome.BAD_KEY
            )
        lease = self._state.leases.held(worker_id, report.job_id, report.attempt_nr)
        curve = _encode(lease.curve).decode() if lease is not None and lease.curve else None
        refusal = attempts.conclude(
            tx, report, curve=curve, registers=self._state.registers, now=self._state.now()
        )
        return m.ReportVerdict(
            job_id=report.job_id,
            attempt_nr=report.attempt_nr,
            verdict=ReportOutcome.ACCEPTED if refusal is None else ReportOutcome(refusal),
            seal=seal,
        )
