"""Why a job is where it is: the facts that `why` puts into words."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec, shape_of
from ailurus.protocol.states import OPEN, UNSUCCESSFUL, WITH_WORKER, JobState
from dispatcher.ports import Tx
from dispatcher.rules import handling, item_views, records, specs, views, why
from dispatcher.rules.group_turns import Carried
from dispatcher.rules.records import JobRecord
from dispatcher.service.figures import LATE, Figures
from dispatcher.service.registrar import Registrar
from dispatcher.service.state import State

# Ancestors of a job that are looked at, nearest first.
ANCESTORS = 500


class Reasons:
    """The part of the service that explains."""

    def __init__(self, state: State, figures: Figures, registrar: Registrar) -> None:
        self._state = state
        self._registrar = registrar
        self._figures = figures

    async def reason(self, job: m.JobRow) -> m.Why:
        """Why a job is where it is."""
        if job.state is JobState.ACTIVATED:
            return await self._waiting(job)
        if job.state is JobState.PENDING and await self._is_held(job.job_id):
            return why.held(job)
        if job.state is JobState.PENDING and (stuck := await self._stuck(job.job_id)):
            return why.hopeless(job, stuck)

        if job.state is JobState.FINISHED:
            files = await self._state.store.read(lambda tx: views.files(tx, job.job_id))
            return why.unregistered(why.elsewhere(job, []), files, self._registrar.away)

        def gather(tx: Tx) -> tuple[list[tuple[int, str]], str, m.ItemCounts | None]:
            parents = records.parents(tx, job.job_id)
            if job.state not in UNSUCCESSFUL:
                return parents, "", item_views.find_counts(tx, job.job_id)
            failed = [(one.job_id, one.state) for one in _above(tx, job.job_id, UNSUCCESSFUL)]
            attempts = views.attempts(tx, job.job_id)
            return sorted(failed), attempts[-1].remedy if attempts else "", None

        parents, advice, counts = await self._state.store.read(gather)
        answer = why.elsewhere(job, parents, advice, late=self._is_late(job))
        if counts is None:
            return answer
        said = (
            f"of its {counts.total} payloads {counts.finished} have finished, {counts.failed} have "
            f"failed, {counts.running} run, {counts.waiting + counts.leased} wait"
        )
        return replace(answer, blockers=(*answer.blockers, said))

    async def _is_held(self, job_id: int) -> bool:
        record = await self._state.store.read(lambda tx: records.find_job(tx, job_id))
        return record is not None and handling.is_held(record)

    def _is_late(self, job: m.JobRow) -> bool:
        live = self._state.live.get(job.worker_id or 0)
        if live is None or job.state not in WITH_WORKER:
            return False
        return live.until - self._state.awake.now < (1 - LATE) * self._state.length(live.worker_id)

    async def _waiting(self, job: m.JobRow) -> m.Why:
        supply = await self._figures.supply()

        def gather(tx: Tx) -> tuple[JobSpec, int, m.GroupRow | None, Carried]:
            record = records.find_job(tx, job.job_id)
            number = record.shape_id if record is not None else 0
            place = {"queue": job.queue, "shape_id": number}
            ahead = tx.one("job.ahead", **place, priority=job.priority, job_id=job.job_id)
            mine, counts = (
                self._state.turns.group(tx, number),
                tx.all("counter.ready", queue=job.queue),
            )
            groups = self._state.turns.rows(tx, job.queue, counts)
            group = next((one for one in groups if one.name == mine), None)
            spec = specs.specification(tx, job.job_id, job.name)
            return spec, records.value(ahead, 0), group, self._state.turns.carried(tx, number)

        spec, ahead, group, carried = await self._state.store.read(gather)
        wrong = self._figures.troubles_of(job.queue, supply)
        offers = self._state.offers(job.queue)
        return why.waiting(job, spec, shape_of(spec), offers, ahead, group, wrong, carried)

    async def _stuck(self, job_id: int) -> list[why.Stuck]:
        """The jobs for which this one waits and that can never start, with what is wrong with
        each."""
        above = await self._state.store.read(lambda tx: _above(tx, job_id, OPEN))
        faults: dict[tuple[str, int], str] = {}
        stuck = []
        for one in above:
            if one.state != JobState.ACTIVATED:
                continue
            kind = (one.queue, one.shape_id)
            if kind not in faults:
                faults[kind] = await self._fault(one)
            if faults[kind]:
                stuck.append(why.Stuck(one.job_id, faults[kind]))
        return stuck

    async def _fault(self, one: JobRecord) -> str:
        spec = await self._state.store.read(
            lambda tx: specs.specification(tx, one.job_id, one.name)
        )
        misfit = why.impossible(spec, shape_of(spec), self._state.offers(one.queue))
        return misfit.fault if misfit is not None else ""


def _above(tx: Tx, job_id: int, states: Collection[str]) -> list[JobRecord]:
    """The ancestors of a job that are in one of these states, and so are all between it and
    them."""
    found: dict[int, JobRecord] = {}
    todo = [job_id]
    for child in todo:
        for parent, state in records.parents(tx, child):
            if state not in states or parent in found:
                continue
            if (job := records.find_job(tx, parent)) is None:
                continue
            found[parent] = job
            todo.append(parent)
            if len(found) >= ANCESTORS:
                return list(found.values())
    return list(found.values())
