"""The methods of `/api/v1/` that users' panda-clients call: submit, look at and steer tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.task import Verb
from dispatcher.panda import bodies, task_parameters
from dispatcher.panda.calls import Call
from dispatcher.panda.task_parameters import Sandbox
from dispatcher.panda.v1 import failure, success
from dispatcher.refusal import Rejected
from dispatcher.service import Service
from dispatcher.service.panda import sandboxes, tasks

IN_QUEUE, AT_END, NOT_ACCEPTED = 1, 2, 4
"""PanDA's codes of a submission: the name is taken by a task that goes on, or by one at its end;
refused."""
NO_TASK, NOT_NOW = 2, 4
"""And of what is done to a task."""
NO_IDS = "Failed to retrieve task IDs"
MOST_TASKS = 1000
_FINAL = ("done", "finished", "failed", "aborted")


class TaskCalls:
    """One method a name of the table `v1.METHODS` that has a scope, which the door has checked."""

    def __init__(self, service: Service) -> None:
        self._service = service

    # --- files ---

    async def validate_cache_file(self, call: Call) -> dict[str, Any]:
        # By its CRC32 alone, which anybody can make, no file is known again.
        return failure("NOTFOUND")

    async def upload_cache_file(self, call: Call) -> dict[str, Any]:
        file = call.given["file"]
        try:
            await sandboxes.put(
                self._service, call.identity.caller, file.name.rpartition("/")[2], file.data
            )
        except Rejected as error:
            return failure(f"ERROR: {_told(error)}")
        return success(None)

    # --- tasks ---

    async def submit(self, call: Call) -> dict[str, Any]:
        given = call.given["task_parameters"]
        if call.given.get("parent_tid") is not None:
            return failure("parent_tid: not carried by this dispatcher", NOT_ACCEPTED)
        caller, sandbox = call.identity.caller, None
        try:
            name = task_parameters.task_name(given)
            if (taken := await tasks.named(self._service, caller, name)) is not None:
                return failure(
                    f"jediTaskID={taken.number} is already {'in JEDI' if taken.ended else 'queued'}"
                    f" for outDS={name}/. You cannot submit duplicated tasks. ",
                    AT_END if taken.ended else IN_QUEUE,
                )
            if archive := task_parameters.archive(given):
                kept = await sandboxes.find(self._service, caller, archive)
                if kept is None:
                    return failure(f"{archive}: no such file was uploaded by you", NOT_ACCEPTED)
                sandbox = Sandbox(archive, kept.url, kept.size)
            task = task_parameters.task_of(given, sandbox)
            number = await tasks.submit(self._service, caller, task, task_parameters.numbered)
        except (AilurusError, Rejected) as error:
            return failure(f"not accepted: {_told(error)}", NOT_ACCEPTED)
        return success(number, f"succeeded. new jediTaskID={number}")

    async def kill(self, call: Call) -> dict[str, Any]:
        return await self._steer(call, "kill", None)

    async def pause(self, call: Call) -> dict[str, Any]:
        return await self._steer(call, "pause", Verb.PAUSE)

    async def resume(self, call: Call) -> dict[str, Any]:
        return await self._steer(call, "resume", Verb.RESUME)

    async def finish(self, call: Call) -> dict[str, Any]:
        # Jobs that run go on, whether `soft` or not.
        return await self._steer(call, "finish", Verb.FINISH)

    async def retry(self, call: Call) -> dict[str, Any]:
        if call.given.get("new_parameters"):
            return failure("new_parameters: not carried by this dispatcher", NOT_NOW)
        return await self._steer(call, "retry", Verb.RETRY)

    async def _steer(self, call: Call, name: str, verb: Verb | None) -> dict[str, Any]:
        number, caller = call.given["task_id"], call.identity.caller
        task_id = tasks.task_id_of(number)
        before = await self._found(call)
        if before is None:
            return failure(f"jediTaskID={number} is not found", NO_TASK)
        try:
            if verb is None:
                if before["superStatus"] in _FINAL:
                    raise Rejected(409, "it is at its end")
                await self._service.tasks.cancel_task(m.CancelTask(task_id=task_id), caller)
            else:
                ask = m.SteerTask(task_id=task_id, verb=verb)
                await self._service.tasks.steer_task(ask, caller)
        except Rejected as error:
            if error.status != 409:
                raise
            return failure(
                f"Command rejected: the {name} command is not accepted if the task is in "
                f"{before['status']} status : {error.title}",
                NOT_NOW,
            )
        return success(0, f"command={name} is registered for task ID {number}.")

    async def get_status(self, call: Call) -> dict[str, Any]:
        found = await self._found(call)
        return failure("Task not found") if found is None else success(found["status"])

    async def get_detailed_info(self, call: Call) -> dict[str, Any]:
        found = await self._found(call)
        return failure("Task not found") if found is None else success(_dated(found))

    async def _found(self, call: Call) -> dict[str, Any] | None:
        try:
            return await tasks.find(self._service, call.identity.caller, call.given["task_id"])
        except Rejected:
            return None

    async def get_tasks_detailed_info_since(self, call: Call) -> dict[str, Any]:
        given, caller = call.given, call.identity.caller
        try:
            wanted = _filters(given.get("filters"))
            since = _seconds(given.get("since"))
        except ValueError as error:
            return failure(f"{NO_IDS}: {error}")
        most = min(given.get("n_tasks") or MOST_TASKS, MOST_TASKS)

        def good(row: dict[str, Any]) -> bool:
            texts = ((str(row[name]), values) for name, values in wanted.items())
            return row["modificationTime"] >= since and all(
                text in values for text, values in texts
            )

        found = await tasks.since(self._service, caller, good, max(0, most))
        return success([_dated(row) for row in found])


_COLUMNS = frozenset(
    {
        "jediTaskID",
        "processingType",
        "prodSourceLabel",
        "reqID",
        "status",
        "superStatus",
        "taskName",
        "taskType",
        "userName",
    }
)


def _filters(text: str | None) -> dict[str, frozenset[str]]:
    """The values that each named column may have: `a|b` is one of both, and no other pattern.
    Raises ValueError; a filter that were passed over would give the tasks of others a `kill`."""
    if text is None:
        return {}
    try:
        given = bodies.within(text)
    except RecursionError:
        given = None
    if not isinstance(given, dict):
        raise ValueError("`filters` is no JSON object")  # noqa: TRY004 -- as all that is not read
    if odd := sorted(set(given) - _COLUMNS):
        raise ValueError(f"no column {odd[0][:100]}")
    return {name: frozenset(str(value).split("|")) for name, value in given.items()}


def _seconds(text: str | None) -> float:
    """A time as clients write it, in UTC. Raises ValueError."""
    if text is None:
        return 0.0
    return datetime.strptime(text[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()


def _dated(row: dict[str, Any]) -> dict[str, Any]:
    """A task with its times as PanDA writes them."""
    times = ("creationDate", "modificationTime")
    return row | {name: {"__datetime__": _written(row[name])} for name in times}


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _told(error: AilurusError | Rejected) -> str:
    """What a refusal says, with the field and the remedy."""
    said = error.message if isinstance(error, AilurusError) else error.title
    text = f"{error.field}: {said}" if error.field else said
    return f"{text} ({error.remedy})" if error.remedy else text
