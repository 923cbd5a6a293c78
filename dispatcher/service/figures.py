"""The system in figures: counters that commits keep, sums over what is in memory, and what is wrong.

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
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.ports import Row, Tx
from dispatcher.rules import troubles
from dispatcher.service.base import Core

SHARE = 0.1
"""At most this part of the time goes into gathering what serves the queues: a thousand pages ask at once."""
LATE = 2 / 3  # a pilot that says nothing for this part of its lease counts as silent
FAILED_S = 86_400.0  # failures of the last day are spoken of
KINDS = 20  # kinds of failures that are listed


class Supply(Struct, frozen=True, kw_only=True):
    """What serves the queues, whoever asks."""

    serving: Mapping[str, int]  # workers by queue
    offered: Mapping[str, frozenset[str]]  # sites by queue
    sites: tuple[m.SiteRow, ...]
    phases: Mapping[str, int]
    pilots: m.PilotSums
    troubles: tuple[m.Trouble, ...]


class _Jobs(Struct):
    """What is in the queues, as far as the caller sees it."""

    states: dict[str, Counter[str]]
    oldest: dict[str, float]
    groups: dict[str, list[m.GroupRow]]
    failures: list[Row]

    @property
    def waiting(self) -> dict[str, int]:
        return {name: states[JobState.ACTIVATED] for name, states in self.states.items()}


class Figures(Core):
    """The part of the service that counts."""

    _supply: tuple[float, Supply] | None = None  # good until then, by the monotonic clock

    async def overview(self, ask: api.NoQuery, caller: Caller) -> m.Overview:
        """The system in numbers: all jobs for an administrator, the caller's own for a user."""
        user = _whose(caller)
        since = self.now() - FAILED_S
        jobs = await self.store.read(lambda tx: self._jobs(tx, user, since))
        supply = await self.supply()
        states: Counter[str] = Counter()
        for one in jobs.states.values():
            states.update(one)
        flow = self.hub.flow.per_minute(self.now(), user)
        queues = _rows(jobs, supply)
        return m.Overview(
            now=self.now(),
            version=__version__,
            states=dict(states),
            queues=queues,
            workers=dict(supply.phases),
            sites=supply.sites,
            finished_per_min=flow[JobState.FINISHED],
            failed_per_min=flow[JobState.FAILED],
            pilots=supply.pilots,
            troubles=self._troubles(jobs, supply),
            failures=tuple(
                m.FailureRow(kind=kind, code=code, diagnosis=example, jobs=n, last=last)
                for kind, code, example, n, last in jobs.failures[:KINDS]
            ),
            failure_kinds=len(jobs.failures),
        )

    async def queues(self, ask: api.NoQuery, caller: Caller) -> api.QueueRows:
        """Queues, what waits in them and what serves them."""
        user = _whose(caller)
        jobs = await self.store.read(lambda tx: self._jobs(tx, user, None))
        return api.QueueRows(queues=_rows(jobs, await self.supply()))

    async def workers(self, ask: api.WorkersQuery, caller: Caller) -> api.WorkerRows:
        """Workers, with heartbeats as fresh as memory knows them."""

        def gather(tx: Tx) -> tuple[list[Row], int]:
            rows = tx.all("worker.page", site=ask.site, ended=ask.ended, most=ask.limit)
            if len(rows) < ask.limit:
                return rows, len(rows)
            (total,) = tx.one("worker.number", site=ask.site, ended=ask.ended) or (len(rows),)
            return rows, total

        rows, total = await self.store.read(gather)
        workers = [self.worker_row(row) for row in rows]
        if not caller.may(api.Scope.ADMIN):  # an intent is half of what makes an edge its worker's
            workers = [replace(one, intent="", index=0) for one in workers]
        return api.WorkerRows(workers=tuple(workers), total=total)

    def troubles_of(self, queue: str, supply: Supply) -> list[m.Trouble]:
        """What is wrong with those that serve a queue."""
        return [one for one in supply.troubles if queue in one.queues or queue == ""]

    async def supply(self) -> Supply:
        """What serves the queues, as of a moment ago."""
        began = time.monotonic()
        if self._supply is not None and began < self._supply[0]:
            return self._supply[1]
        supply = self._looked(await self.store.read(lambda tx: tx.all("worker.phases")))
        ended = time.monotonic()
        self._supply = (ended + (ended - began) / SHARE, supply)
        return supply

    def _looked(self, phases: Sequence[Row]) -> Supply:
        offered: dict[str, set[str]] = {}
        for site, lease in self.sites.items():
            for slot in lease.slots:
                offered.setdefault(slot.queue, set()).add(site)
        sites = tuple(self._sites(phases))
        serving: Counter[str] = Counter()
        silent: dict[str, float] = {}
        cores = used = late = 0
        for heard in self.heard.values():
            serving[heard.queue] += 1
            if heard.passing:  # a PanDA pilot: what it has is known only while it asks
                continue
            cores += heard.total.cores
            used += max(0, heard.total.cores - heard.room.cores)
            if heard.until - self.awake.now < (1 - LATE) * self.length(heard.worker_id):
                late += 1
                silent[heard.queue] = min(heard.last, silent.get(heard.queue, heard.last))
        seen = troubles.Seen(
            now=self.now(),
            sites=sites,
            serving=serving,
            silent=silent,
            silent_count=late,
            losses=self.hub.losses.recent(self.now()),
        )
        all_phases: Counter[str] = Counter()
        for _, phase, n in phases:
            all_phases[phase] += n
        return Supply(
            serving=serving,
            offered={queue: frozenset(names) for queue, names in offered.items()},
            sites=sites,
            phases=all_phases,
            pilots=m.PilotSums(alive=len(self.heard), silent=late, cores=cores, used=used),
            troubles=tuple(troubles.of_supply(seen)),
        )

    def _sites(self, rows: Sequence[Row]) -> Iterator[m.SiteRow]:
        phases: dict[str, dict[str, int]] = {}
        for site, phase, n in rows:
            phases.setdefault(site, {})[phase] = n
        for site, lease in sorted(self.sites.items()):
            yield m.SiteRow(
                site=site,
                online=lease.online,
                heard=lease.until > self.awake.now,
                queues=tuple(sorted({slot.queue for slot in lease.slots})),
                workers=phases.get(site, {}),
                word=lease.word,
                excluded=tuple(self.hosts.of_site(site, self.now())),
                last_heard=lease.heard,
            )

    def _jobs(self, tx: Tx, user: str, failed_since: float | None) -> _Jobs:
        """`user`: whose, a blank for everybody's."""
        found = _Jobs({}, {}, {}, [])
        ready: list[Row] = []
        for name, shape_id, state, n in tx.all("counter.all"):
            if not user:
                found.states.setdefault(name, Counter())[state] += n
            if state == JobState.ACTIVATED:
                ready.append((name, shape_id, n))
                row = (
                    tx.one("job.oldest_ready", queue=name, shape_id=shape_id) if not user else None
                )
                if row and row[0]:
                    found.oldest[name] = min(row[0], found.oldest.get(name, row[0]))
        for name, state, n in tx.all("owned.of", owner=user) if user else ():
            found.states.setdefault(name, Counter())[state] += n
        found.groups = {name: self.turns.rows(tx, name, ready) for name in found.states}
        if failed_since is not None:
            found.failures = tx.all("failure.top", owner=user, since=failed_since, most=1000)
        return found

    def _troubles(self, jobs: _Jobs, supply: Supply) -> tuple[m.Trouble, ...]:
        waiting, now = jobs.waiting, self.now()
        of_supply = [one for one in supply.troubles if troubles.worth_telling(one, waiting, now)]
        return (*of_supply, *troubles.unserved(waiting, supply.serving, jobs.oldest, now))


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
