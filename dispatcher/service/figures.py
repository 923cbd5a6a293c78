"""The system in figures: counters that commits keep, sums over what is in memory, and what is
wrong.

No sum is made of a list that may be cut, and a list that is cut has its true length beside it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ailurus import __version__
from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.faults import Fault, fault_of
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import records, troubles, worker_records
from dispatcher.rules.group_turns import Ready
from dispatcher.rules.records import FailureRecord
from dispatcher.rules.worker_records import WorkerRecord
from dispatcher.service.registrar import Registrar
from dispatcher.service.state import State

SHARE = 0.1
"""At most this part of the time goes into gathering what serves the queues: a thousand pages ask at
once."""
# Awake seconds for which the supply counts as fresh.
FRESH_S = 5.0
# A pilot that says nothing for this part of its lease counts as silent.
LATE = 2 / 3
# Age of the failures that are shown.
FAILED_S = 86_400.0
# Kinds of failures that are read.
MOST_KINDS = 10_000
# Kinds of failures that the overview lists.
KINDS = 20
Phases = tuple[str, str, int]
"""How many workers of a site are in a phase (`worker.phases`)."""


class Supply(Struct, frozen=True, kw_only=True):
    """What serves the queues, whoever asks."""

    # Workers by queue.
    serving: Mapping[str, int]
    # Sites by queue.
    offered: Mapping[str, frozenset[str]]
    sites: tuple[m.SiteRow, ...]
    phases: Mapping[str, int]
    pilots: m.PilotSums
    troubles: tuple[m.Trouble, ...]


class _Jobs(Struct):
    """What is in the queues, as far as the caller sees it."""

    states: dict[str, Counter[str]]
    oldest: dict[str, float]
    groups: dict[str, list[m.GroupRow]]
    failures: list[FailureRecord]

    @property
    def waiting(self) -> dict[str, int]:
        return {name: states[JobState.ACTIVATED] for name, states in self.states.items()}


class Figures:
    """The part of the service that counts."""

    def __init__(self, state: State, registrar: Registrar) -> None:
        self._state = state
        self._registrar = registrar
        self._supply: tuple[float, float, Supply] | None = None
        """What serves the queues, good until a reading of the monotonic clock, and until an awake
        time."""

    async def failures(self, ask: api.FailuresQuery, caller: Caller) -> m.Failures:
        """Failed jobs by what went wrong and where; the caller's own, or all for an admin."""
        if ask.fault not in ("", *Fault):
            raise Rejected(422, f"{ask.fault!r} is nobody", field="fault", remedy=", ".join(Fault))
        owner = "" if caller.may(api.Scope.ADMIN) else caller.subject
        found = await self._state.store.read(
            lambda tx: records.failures(tx, owner, ask.since, MOST_KINDS)
        )
        kinds = [
            row
            for row in map(_failure, found)
            if ask.site in ("", row.site) and ask.fault in ("", row.fault)
        ]
        cells: Counter[tuple[int, str]] = Counter()
        for one in kinds:
            cells[one.code, one.site] += one.jobs
        return m.Failures(
            kinds=tuple(kinds[: ask.limit]),
            more=max(0, len(kinds) - ask.limit),
            jobs=sum(one.jobs for one in kinds),
            cells=tuple(
                m.FailureCell(code=code, site=site, jobs=jobs)
                for (code, site), jobs in sorted(cells.items())
            ),
        )

    async def overview(self, ask: api.NoQuery, caller: Caller) -> m.Overview:
        """The system in numbers: all jobs for an administrator, the caller's own for a user."""
        user = _whose(caller)
        since = self._state.now() - FAILED_S
        jobs = await self._state.store.read(lambda tx: self._jobs(tx, user, since))
        supply = await self.supply()
        states: Counter[str] = Counter()
        for one in jobs.states.values():
            states.update(one)
        flow = self._state.hub.flow.per_minute(self._state.now(), user)
        queues = _rows(jobs, supply)
        return m.Overview(
            now=self._state.now(),
            version=__version__,
            states=dict(states),
            queues=queues,
            workers=dict(supply.phases),
            sites=supply.sites,
            finished_per_min=flow[JobState.FINISHED],
            failed_per_min=flow[JobState.FAILED],
            pilots=supply.pilots,
            troubles=self._troubles(jobs, supply),
            failures=tuple(map(_failure, jobs.failures[:KINDS])),
            failure_kinds=len(jobs.failures),
        )

    async def health(self) -> tuple[tuple[m.Trouble, ...], m.PilotSums]:
        """What an operator should look at, and all pilots together."""
        jobs = await self._state.store.read(lambda tx: self._jobs(tx, "", None))
        supply = await self.supply()
        return self._troubles(jobs, supply), supply.pilots

    async def queues(self, ask: api.NoQuery, caller: Caller) -> api.QueueRows:
        """Queues, what waits in them and what serves them."""
        user = _whose(caller)
        jobs = await self._state.store.read(lambda tx: self._jobs(tx, user, None))
        return api.QueueRows(queues=_rows(jobs, await self.supply()))

    async def workers(self, ask: api.WorkersQuery, caller: Caller) -> api.WorkerRows:
        """Workers, with heartbeats as fresh as memory knows them."""

        def gather(tx: Tx) -> tuple[list[WorkerRecord], int]:
            found = worker_records.workers(tx, ask.site, ended=ask.ended, most=ask.limit)
            if len(found) < ask.limit:
                return found, len(found)
            number = tx.one("worker.number", site=ask.site, ended=ask.ended)
            return found, records.value(number, len(found))

        found, total = await self._state.store.read(gather)
        workers = [self._state.worker_row(one) for one in found]
        # An intent is half of what makes an edge its worker's.
        if not caller.may(api.Scope.ADMIN):
            workers = [replace(one, intent="", index=0) for one in workers]
        return api.WorkerRows(workers=tuple(workers), total=total)

    def troubles_of(self, queue: str, supply: Supply) -> list[m.Trouble]:
        """What is wrong with those that serve a queue."""
        return [one for one in supply.troubles if queue in one.queues or queue == ""]

    async def supply(self) -> Supply:
        """What serves the queues, as of a moment ago."""
        began = time.monotonic()
        awake = self._state.awake.now
        if self._supply is not None:
            good_until, good_awake, supply = self._supply
            if began < good_until and awake < good_awake:
                return supply
        supply = self._looked(await self._state.store.read(lambda tx: tx.all("worker.phases")))
        ended = time.monotonic()
        self._supply = (ended + (ended - began) / SHARE, awake + FRESH_S, supply)
        return supply

    def _looked(self, phases: Sequence[Phases]) -> Supply:
        offered: dict[str, set[str]] = {}
        for site, lease in self._state.sites.items():
            for slot in lease.slots:
                offered.setdefault(slot.queue, set()).add(site)
        sites = tuple(self._sites(phases))
        serving: Counter[str] = Counter()
        silent: dict[str, float] = {}
        cores = used = late = 0
        for live in self._state.live.values():
            serving[live.queue] += 1
            # A PanDA pilot: what it has is known only while it asks.
            if live.passing:
                continue
            there = live.total.together.cores
            cores += there
            used += max(0, there - live.room.together.cores)
            if live.until - self._state.awake.now < (1 - LATE) * self._state.length(live.worker_id):
                late += 1
                silent[live.queue] = min(live.last, silent.get(live.queue, live.last))
        seen = troubles.Seen(
            now=self._state.now(),
            sites=sites,
            serving=serving,
            silent=silent,
            silent_count=late,
            losses=self._state.hub.losses.recent(self._state.now()),
        )
        all_phases: Counter[str] = Counter()
        for _, phase, n in phases:
            all_phases[phase] += n
        return Supply(
            serving=serving,
            offered={queue: frozenset(names) for queue, names in offered.items()},
            sites=sites,
            phases=all_phases,
            pilots=m.PilotSums(alive=len(self._state.live), silent=late, cores=cores, used=used),
            troubles=tuple(troubles.of_supply(seen)),
        )

    def _sites(self, rows: Sequence[Phases]) -> Iterator[m.SiteRow]:
        phases: dict[str, dict[str, int]] = {}
        for site, phase, n in rows:
            phases.setdefault(site, {})[phase] = n
        for site, lease in sorted(self._state.sites.items()):
            yield m.SiteRow(
                site=site,
                online=lease.online,
                heard=lease.until > self._state.awake.now,
                queues=tuple(sorted({slot.queue for slot in lease.slots})),
                workers=phases.get(site, {}),
                word=lease.decision,
                excluded=tuple(self._state.hosts.of_site(site, self._state.now())),
                last_heard=lease.heard,
            )

    def _jobs(self, tx: Tx, user: str, failed_since: float | None) -> _Jobs:
        """`user`: whose, a blank for everybody's."""
        found = _Jobs({}, {}, {}, [])
        ready: list[Ready] = []
        for one in records.counters(tx):
            if not user:
                found.states.setdefault(one.queue, Counter())[one.state] += one.n
            if one.state == JobState.ACTIVATED:
                ready.append((one.queue, one.shape_id, one.n))
                if not user:
                    row = tx.one("job.oldest_ready", queue=one.queue, shape_id=one.shape_id)
                    since: float | None = records.value(row, None)
                    if since:
                        found.oldest[one.queue] = min(since, found.oldest.get(one.queue, since))
        for name, state, n in tx.all("owned.of", owner=user) if user else ():
            found.states.setdefault(name, Counter())[state] += n
        found.groups = {name: self._state.turns.rows(tx, name, ready) for name in found.states}
        if failed_since is not None:
            found.failures = records.failures(tx, user, failed_since)
        return found

    def _troubles(self, jobs: _Jobs, supply: Supply) -> tuple[m.Trouble, ...]:
        waiting, now = jobs.waiting, self._state.now()
        of_supply = [one for one in supply.troubles if troubles.worth_telling(one, waiting, now)]
        return (
            *self._registrar.troubles(),
            *of_supply,
            *troubles.unserved(waiting, supply.serving, jobs.oldest, now),
        )


def _whose(caller: Caller) -> str:
    return "" if caller.may(api.Scope.ADMIN) else caller.subject


def _rows(jobs: _Jobs, supply: Supply) -> tuple[m.QueueRow, ...]:
    names = sorted({*jobs.states, *supply.serving, *supply.offered})
    return tuple(
        m.QueueRow(
            name=name,
            states=dict(jobs.states.get(name, {})),
            oldest_waiting=jobs.oldest.get(name),
            workers=supply.serving.get(name, 0),
            sites=tuple(sorted(supply.offered.get(name, ()))),
            groups=tuple(jobs.groups.get(name, ())),
            troubles=tuple(one.sentence for one in supply.troubles if name in one.queues),
        )
        for name in names
    )


def _failure(one: FailureRecord) -> m.FailureRow:
    return m.FailureRow(
        kind=one.kind,
        code=one.code,
        diagnosis=one.example,
        jobs=one.n,
        last=one.last,
        first=one.first,
        site=one.site,
        fault=fault_of(one.code),
    )
