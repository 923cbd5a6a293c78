"""Tasks of users of PanDA's client: the same tasks as our own, under PanDA's numbers and words."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from msgspec import Struct

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.task import ENDED, Task, TaskState
from dispatcher.auth.caller import Caller
from dispatcher.service import Service
from dispatcher.tasks import records

FIRST_ID = 10_000_000
"""PanDA's client takes smaller numbers for those of requests, which stand for many tasks."""
PAGE, MOST_LOOKED_AT = 100, 5000
"""Tasks of one read of the store, and of one question."""
_SUPER = {"paused": "running", "finishing": "running"}


def number_of(task_id: int) -> int:
    """The number of a task at PanDA's clients."""
    return FIRST_ID + task_id


def task_id_of(number: int) -> int:
    """The task of a number; 0, which none has, for what is none."""
    return number - FIRST_ID if FIRST_ID < number < 2**62 else 0


class NamedTask(Struct, frozen=True):
    """A task that has the name already, and whether it is at its end."""

    number: int
    ended: bool


async def named(service: Service, caller: Caller, name: str) -> NamedTask | None:
    """The task of the caller that was submitted by that name."""
    found = await service.store.read(
        lambda tx: records.find_request(tx, caller.subject, _request_id(name))
    )
    if found is None or found.state == TaskState.SUBMITTING:
        return None
    return NamedTask(number_of(found.task_id), found.state in ENDED)


async def submit(
    service: Service, caller: Caller, task: Task, numbered: Callable[[Task, int], Task]
) -> int:
    """Submit a task whose name is its request; returns its number. Raises Rejected."""
    ask = m.SubmitTask(request_id=_request_id(task.task), task=task)
    done = await service.tasks.accept(
        ask,
        caller,
        uploads=True,
        numbered=lambda plain, task_id: numbered(plain, number_of(task_id)),
    )
    return number_of(done.task_id)


def _request_id(name: str) -> str:
    return f"panda-{sha256(name.encode()).hexdigest()}"


async def find(service: Service, caller: Caller, number: int) -> dict[str, Any]:
    """A task of the caller as PanDA's clients see it. Raises Rejected for another's, or none."""
    detail = await service.tasks.task(api.TaskQuery(task_id=task_id_of(number)), caller)
    return row_of(detail.row)


async def since(
    service: Service, caller: Caller, good: Callable[[dict[str, Any]], bool], most: int
) -> list[dict[str, Any]]:
    """The caller's own tasks that are `good`, newest first."""
    found: list[dict[str, Any]] = []
    before: int | None = None
    for _ in range(0, MOST_LOOKED_AT, PAGE):
        ask = api.TasksQuery(user=caller.subject, before=before, limit=PAGE)
        page = await service.tasks.tasks(ask, caller)
        found += filter(good, map(row_of, page.tasks))
        if len(found) >= most or page.next is None:
            break
        before = page.next
    return found[:most]


def state_of(row: m.TaskRow) -> str:
    """PanDA's word for how a task is."""
    failed = any(step.failed for step in row.steps)
    some = any(step.finished for step in row.steps)
    match row.state:
        case TaskState.SUBMITTING:
            return "registered"
        case TaskState.FINISHED:
            return "finished" if failed else "done"
        # `finished` there means that some have failed.
        case TaskState.FAILED:
            return "finished" if some else "failed"
        case TaskState.CANCELLED:
            return "aborted"
    return str(row.state)


def row_of(row: m.TaskRow) -> dict[str, Any]:
    """A task as clients read it; times in seconds since 1970."""
    state, number = state_of(row), number_of(row.task_id)
    items = sum(step.items for step in row.steps)
    finished = sum(step.finished for step in row.steps)
    failed = sum(step.failed for step in row.steps)
    return {
        "jediTaskID": number,
        "reqID": number,
        "taskName": f"{row.name}/",
        "userName": row.user,
        "status": state,
        "superStatus": _SUPER.get(state, state),
        "creationDate": row.created,
        "modificationTime": row.changed,
        "errorDialog": row.reason or None,
        "nFiles": items,
        "nFilesFinished": finished,
        "nFilesFailed": failed,
        "nFilesMissing": 0,
        "pctFinished": 100 * finished // items if items else 0,
        "pctFailed": 100 * failed // items if items else 0,
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": "panda-client",
        "site": None,
        "splitRule": "",
        "transPath": None,
        "container_name": None,
        "eventService": 0,
        "parent_tid": None,
        "ttcRequested": None,
    }
