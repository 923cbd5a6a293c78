"""A submission on its way into the store, of a user or of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ailurus.protocol import messages as m
from dispatcher.ports import Tx
from dispatcher.rules import submission, uploads, user_turns
from dispatcher.rules.lanes import Lanes
from dispatcher.rules.preparing import Prepared
from dispatcher.rules.submission import Request
from dispatcher.service.state import State


class Storing:
    """A request on its way into the store; its methods are the changes, in the order in which they
    are made."""

    def __init__(
        self, state: State, process: str, request: Request, jobs: Sequence[Prepared]
    ) -> None:
        self._state, self._process = state, process
        self._request, self._jobs = request, list(jobs)
        self._now = state.now()
        self._ends, self._takes = user_turns.turns(
            ((job.spec.queue, job.shape.cores) for job in jobs),
            state.settings.shares.get(request.owner, 1.0),
        )
        self._begins: dict[str, float] = {}
        self._carrying = any(job.spec.payloads for job in jobs)
        self._filled: dict[int, Prepared] = {}
        self._first = 0

    def links(self) -> Iterator[submission.ParentLink]:
        """What the jobs wait for."""
        places = {job.spec.name: nr for nr, job in enumerate(self._jobs)}
        return submission.links(self._jobs, places)

    def at_once(self, tx: Tx, links: Sequence[submission.ParentLink]) -> m.Submitted:
        """All of it in one commit."""
        self.begin(tx)
        self.add(tx, 0)
        if links:
            self.link(tx, links)
        return self.finish(tx)

    def begin(self, tx: Tx) -> None:
        """Set ids and turns aside."""
        state, request = self._state, self._request
        self._first = submission.begin(
            tx, request, len(self._jobs), process=self._process, now=self._now
        )
        uploads.use(tx, (job.spec for job in self._jobs), request.owner, self._first, now=self._now)
        self._begins = user_turns.begin(tx, request.owner, self._takes, request.group, state.turns)

    def add(self, tx: Tx, at: int) -> None:
        """Store the jobs of one commit, from place `at` on."""
        state, request = self._state, self._request
        part = self._jobs[at : at + submission.TOGETHER]
        ends = self._ends[at : at + submission.TOGETHER]
        submission.still_ours(tx, request, self._first)
        submission.add(
            tx,
            request,
            part,
            Lanes(tx, request.owner, request.group, state.turns, state.shapes, self._now),
            first=self._first + at,
            ranks=[self._begins[job.spec.queue] + end for job, end in zip(part, ends, strict=True)],
            now=self._now,
            tally=self._first if submission.tallied(request, len(self._jobs)) else None,
        )

    def link(self, tx: Tx, links: Sequence[submission.ParentLink]) -> None:
        """Store some of what the jobs wait for."""
        submission.still_ours(tx, self._request, self._first)
        sees = self._request.sees
        submission.link(tx, links, self._jobs, self._filled, first=self._first, sees=sees)

    def finish(self, tx: Tx) -> m.Submitted:
        """Let all jobs begin."""
        submission.still_ours(tx, self._request, self._first)
        submission.use_datasets(tx, self._jobs, self._first)
        if self._carrying:
            submission.carry_items(tx, self._request, self._jobs, self._first)
        return submission.open_up(tx, self._request, self._first, len(self._jobs), now=self._now)

    def let_go(self) -> None:
        """Hold none of the jobs any more."""
        self._jobs.clear()
        self._filled.clear()

    def clear(self, tx: Tx, first: int, last: int) -> None:
        """Forget the jobs at these places of a request that was refused."""
        submission.clear(tx, self._first + first, self._first + last)

    def drop(self, tx: Tx) -> None:
        """Forget the request itself."""
        by, request_id = self._request.by, self._request.request_id
        submission.drop(tx, by, request_id, self._first, len(self._jobs))
