"""What users do to many jobs at once: slice by slice, each slice in one commit with how far it is.

So a dispatcher that is killed in between does nothing twice: whoever sends the request again goes
on with it, and so does a dispatcher that starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol import query as q
from ailurus.protocol.api import Filter, Scope
from dispatcher.auth.caller import Caller
from dispatcher.events import ActionBegun, ActionEnded
from dispatcher.ports import Ahead, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import (
    action_records,
    dependencies,
    handling,
    records,
    searches,
    submission,
    undoing,
)
from dispatcher.rules.action_records import ActionRecord
from dispatcher.rules.handling import Hand
from dispatcher.rules.searches import Wanted
from dispatcher.service.intake import Intake
from dispatcher.service.search import FIRST, next_width
from dispatcher.service.state import State, log

# Jobs of one commit: heartbeats get their turn between two.
SLICE = 250
# After so long an answer tells how far it is.
ANSWER_S = 10.0
# Named in an answer.
REASONS = 5
# Unfinished ones that a start goes on with, and how long ago they may have begun: whoever has
# stopped one has seen by then that it was a mistake, or has asked for the rest.
MOST, RESUMED_S = 1000, 3600.0
RETRIES = frozenset({"retry", "undo"})
"""Verbs that submit jobs anew."""
_encode = msgspec.json.Encoder().encode


class _Rights(Struct, frozen=True):
    """What is kept of the token of who began an action."""

    all: bool
    """Everybody's jobs."""
    groups: tuple[str, ...] = ()


class _UndoMany(m.Many, kw_only=True):
    """Jobs that another action has cancelled are brought back."""

    of: int


REQUESTS: dict[str, type[m.Many]] = {
    "cancel": m.CancelMany,
    "retry": m.RetryMany,
    "undo": _UndoMany,
}


class _Action(Struct):
    """An action under way, and what came of it since this request came."""

    number: int
    verb: str
    ask: m.Many
    caller: Caller
    search: Wanted | None
    """None: the jobs are named, or written down."""
    last: int
    cursor: int
    job_ids: list[int]
    new_ids: list[int]
    reasons: dict[str, None]
    width: int = FIRST
    """Ids among which the next read looks for jobs."""


class _Overtaken(Exception):
    """Another process goes on with the same action."""


class Actions:
    """The part of the service that acts on many jobs."""

    def __init__(self, state: State, intake: Intake) -> None:
        self._state = state
        self._intake = intake
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def cancel_many(self, ask: m.CancelMany, caller: Caller) -> m.Acted:
        """Cancel jobs."""
        return await self._act("cancel", ask, caller)

    async def retry_many(self, ask: m.RetryMany, caller: Caller) -> m.Acted:
        """Try jobs again that have ended."""
        return await self._act("retry", ask, caller)

    async def change_many(self, ask: m.ChangeMany, caller: Caller) -> m.Acted:
        """Hold or release jobs that wait, or give them another place."""
        needs = {"priority": ask.priority, "move": ask.queue}
        if needs.get(ask.verb, "") is None:
            field = "priority" if ask.verb == "priority" else "queue"
            raise Rejected(
                422, f"{ask.verb} to what?", field=field, remedy=f"name the {field} that they get"
            )
        return await self._act(ask.verb, ask, caller)

    async def undo(self, ask: m.Undo, caller: Caller) -> m.Acted:
        """Try the jobs again that an action has cancelled while they waited. Raises Rejected."""
        store, now = self._state.store, self._state.now
        jobs = await store.read(lambda tx: undoing.cancelled(tx, ask.action, caller.owns, now()))
        # What waited for them fails before it is looked for.
        while await store.write(lambda tx: dependencies.unfold(tx, now=now())):
            pass
        # The same request, whoever asks how often.
        request_id = f"undo-{ask.action}"
        many = _UndoMany(request_id=request_id, of=ask.action, jobs=jobs)
        return await self._carried("undo", many, caller)

    def resume(self) -> None:
        """Go on with what a former process began."""
        self._state.loops.once("actions", self._resume())

    async def _resume(self) -> None:
        rows = await self._state.store.read(lambda tx: tx.all("action.open", most=MOST))
        for owner, request_id in rows:
            found = await self._found(owner, request_id)
            if found is None or found.ended is not None:
                continue
            verb, ask, caller = _read(found, owner)
            action = self._action(verb, ask, caller, found)
            if found.at < self._state.now() - RESUMED_S:
                log.info("action_left", action=found.action_id, verb=verb, user=owner)
                await self._state.store.write(partial(self._end, action))
                continue
            log.info("action_resumed", action=found.action_id, verb=verb, user=owner)
            async with self._busy.setdefault(owner, asyncio.Lock()):
                await self._carry(action, float("inf"))

    async def _act(self, verb: str, ask: m.Many, caller: Caller) -> m.Acted:
        if bool(ask.query.strip()) == bool(ask.job_ids):
            raise Rejected(
                422,
                f"nothing says which jobs to {verb}"
                if not ask.job_ids
                else "both numbers and a query",
                field="query",
                remedy="give a query, state:open say, or numbers of jobs",
            )
        return await self._carried(verb, ask, caller)

    async def _carried(self, verb: str, ask: m.Many, caller: Caller) -> m.Acted:
        """What is asked for, done as far as the time allows."""
        async with self._busy.setdefault(caller.subject, asyncio.Lock()):
            stored = await self._begun(verb, ask, caller)
            action = self._action(verb, ask, caller, stored)
            if stored.ended is None:
                await self._carry(action, time.monotonic() + ANSWER_S)
                stored = await self._found(caller.subject, ask.request_id) or stored
        return m.Acted(
            action=stored.action_id,
            verb=verb,
            done=stored.done,
            kept=stored.kept,
            ended=stored.ended is not None,
            job_ids=tuple(action.job_ids),
            new_ids=tuple(action.new_ids),
            reasons=tuple(action.reasons)[:REASONS],
            undo=stored.undo,
            undo_until=stored.ended + undoing.UNDO_S if stored.undo and stored.ended else None,
        )

    async def _found(self, owner: str, request_id: str) -> ActionRecord | None:
        return await self._state.store.read(lambda tx: action_records.find(tx, owner, request_id))

    def _action(self, verb: str, ask: m.Many, caller: Caller, stored: ActionRecord) -> _Action:
        named = ask.job_ids or verb == "undo"
        search = None if named else _wanted(verb, ask, caller, stored.at)
        return _Action(
            number=stored.action_id,
            verb=verb,
            ask=ask,
            caller=caller,
            search=search,
            last=stored.last,
            cursor=stored.cursor,
            job_ids=[],
            new_ids=[],
            reasons={},
        )

    async def _begun(self, verb: str, ask: m.Many, caller: Caller) -> ActionRecord:
        """The action of a request, which is begun if it is new. Raises Rejected."""
        now = self._state.now()
        said = _encode((verb, ask)).decode()
        if ask.job_ids:
            states = (await self._intake.states_of(ask.job_ids, caller)).states
            if verb == "cancel":
                submission.check_complete(ask.job_ids, states)
        elif verb != "undo":
            # A fault in the query is told before anything is written.
            _wanted(verb, ask, caller, now)

        def begin(tx: Tx) -> ActionRecord | None:
            rights = _Rights(caller.may(Scope.ADMIN), caller.groups)
            _, there = records.job_range(tx)
            last = max(ask.job_ids, default=there)
            row = tx.one(
                "action.add",
                owner=caller.subject,
                request_id=ask.request_id,
                verb=verb,
                said=said,
                caller=_encode(rights).decode(),
                at=now if ask.at is None else min(ask.at, now),
                last=last if ask.last is None else min(ask.last, last),
            )
            if row is not None:
                event = ActionBegun(
                    action=records.value(row, 0),
                    by=caller.subject,
                    verb=verb,
                    query=ask.query,
                    jobs=len(ask.job_ids) or ask.jobs,
                    to=_target(ask),
                )
                tx.tell(event, at=now)
            return action_records.find(tx, caller.subject, ask.request_id)

        stored = await self._state.store.write(begin)
        if stored is None or stored.said != said:
            raise submission.id_reused(ask.request_id)
        return stored

    async def _carry(self, action: _Action, ends: float) -> None:
        """Do it to one slice of jobs after the other, until all is done or the time is over."""
        try:
            while time.monotonic() < ends:
                ids, upto = await self._look(action)
                if ids:
                    await self._do(action, ids)
                    action.cursor = ids[-1]
                else:
                    await self._state.store.write(partial(_advance, action, upto))
                    action.cursor = upto
                if not ids and upto >= action.last:
                    await self._state.store.write(partial(self._end, action))
                    return
        except _Overtaken:
            log.info("action_overtaken", action=action.number)

    async def _look(self, action: _Action) -> tuple[list[int], int]:
        """The next jobs that are meant, and up to where was looked."""
        async with self._state.searching:
            began = time.perf_counter()
            found = await self._state.store.read(partial(_next, action))
            action.width = next_width(action.width, time.perf_counter() - began)
        return found

    async def _do(self, action: _Action, ids: list[int]) -> None:
        """Do it to a slice."""
        if action.verb in RETRIES:
            await self._retry(action, ids)
            return
        hand = Hand(
            by=action.caller.subject,
            action=action.number,
            now=self._state.now(),
            turns=self._state.turns,
            shapes=self._state.shapes,
            shares=self._state.settings.shares,
        )
        done = await self._state.store.write(partial(_handled, action, ids, hand), Ahead(jobs=ids))
        action.job_ids += done
        if action.verb == "cancel":
            for job_id in done:
                self._state.leases.drop(job_id)
                # Who follows its output learns that no more will come.
                self._state.log_arrived(job_id)

    async def _retry(self, action: _Action, ids: list[int]) -> None:
        """Try a slice again: together where that is possible, else one by one."""
        before, meant = len(action.job_ids), ids
        if action.verb == "undo":
            meant, left_out = await self._state.store.read(
                lambda tx: undoing.with_children(tx, ids)
            )
            if left_out:
                action.reasons["too many jobs waited for these: retry what still has failed"] = None
        owners = await self._state.store.read(lambda tx: _owners(tx, meant))
        for theirs in owners.values():
            try:
                await self._retry_these(action, theirs)
            except Rejected:
                for job_id in theirs:
                    try:
                        await self._retry_these(action, [job_id])
                    except Rejected as refused:
                        action.reasons[refused.title] = None
        done = action.job_ids[before:]
        await self._state.store.write(partial(_retried, action, ids[-1], done, len(meant)))

    async def _retry_these(self, action: _Action, ids: list[int]) -> None:
        # The same request again, after a kill, gets the same jobs.
        key = hashlib.sha256(repr((action.ask.request_id, ids)).encode()).hexdigest()
        ask = m.Retry(job_ids=tuple(ids), request_id=f"many-{key[:40]}")
        answer = await self._intake.retry(ask, action.caller)
        action.job_ids += ids
        action.new_ids += answer.job_ids

    def _end(self, action: _Action, tx: Tx) -> None:
        now = self._state.now()
        row = tx.one("action.end", action_id=action.number, now=now)
        if row is None:
            return
        done, kept = row
        event = ActionEnded(
            action=action.number,
            by=action.caller.subject,
            verb=action.verb,
            done=done,
            kept=kept,
        )
        tx.tell(event, at=now)


def _read(stored: ActionRecord, owner: str) -> tuple[str, m.Many, Caller]:
    """What an action was begun with."""
    verb, tree = msgspec.json.decode(stored.said, type=tuple[str, Any])
    ask = msgspec.convert(tree, REQUESTS.get(verb, m.ChangeMany))
    rights = msgspec.json.decode(stored.caller, type=_Rights)
    scopes = {Scope.READ, Scope.CREATE} | ({Scope.ADMIN} if rights.all else set())
    return verb, ask, Caller(subject=owner, scopes=frozenset(scopes), groups=rights.groups)


def _wanted(verb: str, ask: m.Many, caller: Caller, at: float) -> Wanted:
    """Which jobs are meant. Raises Rejected."""
    sees = "" if caller.may(Scope.ADMIN) else caller.subject
    found = searches.wanted(Filter(query=ask.query), sees, at)
    if verb != "retry":
        return found
    # What failed after the count was not counted.
    counted = q.Compared("changed", ">=", 0.0)
    return msgspec.structs.replace(found, query=q.both(found.query, counted))


def _target(ask: m.Many) -> str | None:
    if isinstance(ask, _UndoMany):
        return str(ask.of)
    if not isinstance(ask, m.ChangeMany):
        return None
    return ask.queue if ask.priority is None else str(ask.priority)


def _next(action: _Action, tx: Tx) -> tuple[list[int], int]:
    """The next jobs that are meant, and up to where was looked."""
    if isinstance(action.ask, _UndoMany):
        ids = undoing.following(tx, action.ask.of, action.cursor, SLICE)
        return ids, action.cursor if ids else action.last
    if action.search is None:
        left = sorted(one for one in set(action.ask.job_ids) if one > action.cursor)
        return left[:SLICE], action.last if not left else action.cursor
    upto = min(action.last, action.cursor + action.width)
    ids = searches.following(tx, action.search, action.cursor, upto, SLICE)
    return ids, upto


def _handled(action: _Action, ids: list[int], hand: Hand, tx: Tx) -> list[int]:
    """Do it to a slice of jobs. To which it was done: one that has begun to run since it was found
    waits no more. Raises _Overtaken."""
    _advance(action, ids[-1], tx)
    handle = _handler(action.ask, action.verb)
    still = ids if action.search is None else searches.still(tx, action.search, ids)
    jobs = [
        job
        for job_id in ids
        if job_id in still
        and (job := records.find_job(tx, job_id)) is not None
        and handle(tx, job, hand)
    ]
    done = [job.job_id for job in jobs]
    waited = [job.job_id for job in jobs if action.verb == "cancel" and undoing.waits(job)]
    undoing.note(tx, action.number, waited)
    undoing.reach(tx, action.number, done)
    _count(tx, action, len(done), len(ids), len(waited))
    return done


def _handler(ask: m.Many, verb: str) -> Callable[[Tx, records.JobRecord, Hand], bool]:
    if isinstance(ask, m.ChangeMany) and verb == "priority":
        return partial(handling.prioritize, priority=ask.priority or 0)
    if isinstance(ask, m.ChangeMany) and verb == "move":
        return partial(handling.move, queue=ask.queue or "")
    return {"cancel": handling.cancel, "hold": handling.hold, "release": handling.release}[verb]


def _retried(action: _Action, last: int, done: list[int], meant: int, tx: Tx) -> None:
    """Note what became of a slice of retries up to a job, which are commits of their own. Raises
    _Overtaken."""
    _advance(action, last, tx)
    undoing.reach(tx, action.number, sorted(done))
    _count(tx, action, len(done), meant)


def _count(tx: Tx, action: _Action, done: int, meant: int, undo: int = 0) -> None:
    tx.run("action.more", action_id=action.number, done=done, kept=meant - done, undo=undo)


def _advance(action: _Action, to: int, tx: Tx) -> None:
    """Note up to where an action is. Raises _Overtaken."""
    row = tx.one("action.advance", action_id=action.number, cursor=to, before=action.cursor)
    if row is None:
        raise _Overtaken


def _owners(tx: Tx, ids: list[int]) -> dict[str, list[int]]:
    """Jobs by owner: one request tries again the jobs of one."""
    found: dict[str, list[int]] = {}
    for job_id in ids:
        if (job := records.find_job(tx, job_id)) is not None:
            found.setdefault(job.owner, []).append(job_id)
    return found
