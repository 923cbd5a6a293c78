"""The methods of `/server/panda/`: text in, text or JSON out, everything read leniently."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ailurus.protocol import panda
from ailurus.protocol.panda import number, text
from ailurus.protocol.panda_update import STATES, told
from dispatcher.panda import acquire, harvester, updates
from dispatcher.panda.calls import INSTANCE, Call, Calls, ids, reply
from dispatcher.panda.v1 import METHODS, Refused, bound
from dispatcher.ports import Unavailable

Answer = dict[str, Any] | list[Any] | str | int
"""An object: JSON or `k=v&k=v`, as the client wants. A list or a number: JSON always. Text: as it is."""
NO_JOBS = {"StatusCode": 20}
NO_ROLE = {"StatusCode": 60, "errorDialog": "production or pilot role required"}
OPEN = frozenset(
    {
        "getJob",
        "updateJob",
        "updateJobsInBulk",
        "getStatus",
        "checkJobStatus",
        "updateWorkerPilotStatus",
        "getResourceTypes",
    }
)
"""What a pilot without a token may call, for queues that are open."""
FREE = frozenset({"isAlive"})


class Legacy:
    """The methods by name; what Harvester asks is handed on to v1, whose shapes are wrapped as pairs."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._service = calls.service
        self.methods: dict[str, Callable[[Call], Awaitable[Answer]]] = {
            "isAlive": self._is_alive,
            "getJob": self._get_job,
            "updateJob": self._update_job,
            "updateJobsInBulk": self._update_jobs,
            "getStatus": self._get_status,
            "checkJobStatus": self._check_job_status,
            "updateWorkerPilotStatus": self._worker_status,
            "getResourceTypes": self._resource_types,
            "getProxy": self._get_proxy,
            "get_access_token": self._access_token,
            "getKeyPair": self._get_key_pair,
            "setDebugMode": self._debug_mode,
            "getEventRanges": self._event_ranges,
            "updateEventRanges": self._update_event_ranges,
            "updateEventRange": self._update_event_range,
            "getCommands": self._get_commands,
            "ackCommands": self._ack_commands,
            "get_max_worker_id": self._last_worker,
            **{name: self._pair(path, names) for name, (path, names) in _PAIRS.items()},
        }

    async def _is_alive(self, call: Call) -> Answer:
        return "alive=yes"

    async def _get_job(self, call: Call) -> Answer:
        given = call.given
        several = number(given.get("nJobs"))
        ask = acquire.Ask(
            site=text(given.get("siteName")),
            node=text(given.get("node")),
            label=text(given.get("prodSourceLabel")),
            memory_mb=max(0, number(given.get("mem")) or 0),
            disk_mb=max(0, number(given.get("diskSpace")) or 0),
            count=several or 1,
            seconds_left=max(0, number(given.get("remaining_time")) or 0),
            resource_type=text(given.get("resourceType")),
            task_id=number(given.get("taskID")) or 0,
            harvester_id=text(given.get("harvester_id"))[:INSTANCE],
            worker_id=number(given.get("worker_id")) or 0,
            transforms=call.transforms,
            home=call.home,
        )
        if not call.party.serves(ask.site):
            return NO_ROLE
        try:
            jobs = await acquire.acquire(self._service, ask)
        except Unavailable:
            return {"StatusCode": 10, "errorDialog": "database timeout"}
        if not jobs:
            return NO_JOBS
        return {"StatusCode": 0, "jobs": jobs} if several is not None else jobs[0]

    async def _update_job(self, call: Call) -> dict[str, Any]:
        update = told(call.given, "legacy")
        if update.state not in STATES:
            return reply(None)
        try:
            return reply(await updates.update(self._service, call.party, update))
        except Unavailable:
            return {"StatusCode": 30, "errorDialog": "database error"}

    async def _update_jobs(self, call: Call) -> Answer:
        entries = _decoded(call.given.get("jobList"))
        if not isinstance(entries, list):
            return [False, "jobList is not the JSON text of a list"]
        answers = []
        for entry in entries:
            given = entry if isinstance(entry, dict) else {}
            one = msgspec.structs.replace(call, given=given)
            answers.append(panda.to_text(await self._update_job(one)))
        return [True, answers]

    async def _get_status(self, call: Call) -> Answer:
        wanted = [number(one) or 0 for one in text(call.given.get("ids")).split()]
        found = await updates.states(self._service, call.party, ids(wanted))
        return {
            "StatusCode": 0,
            "status": "+".join(state or "notfound" for _, state, _ in found),
            "attemptNr": "+".join(str(attempt_nr) for _, _, attempt_nr in found),
        }

    async def _check_job_status(self, call: Call) -> Answer:
        wanted = [number(one) or 0 for one in text(call.given.get("ids")).split(",")]
        found = await updates.told_states(self._service, call.party, ids(wanted))
        return _Json({"StatusCode": 0, "data": found})

    async def _worker_status(self, call: Call) -> Answer:
        given = call.given
        instance = text(given.get("harvesterID"))[:INSTANCE]
        worker_id = number(given.get("workerID")) or 0
        place = acquire.Place(intent=acquire.intent_of(instance), index=worker_id)
        if not instance or worker_id < 1:
            return {"StatusCode": 50, "errorDialog": "workerID and harvesterID are needed"}
        if given.get("status") == "started":
            site, node = text(given.get("site")), text(given.get("node_id"))
            await acquire.started(self._service, call.party, place, site[:200], node)
        elif given.get("status") == "finished":
            await acquire.ended(self._service, call.party, place)
        else:
            return {"StatusCode": 30, "errorDialog": "status must be started or finished"}
        return {"StatusCode": 0}

    async def _resource_types(self, call: Call) -> Answer:
        # Pilot 3 reads the list only where it is the text of a Python list
        return {"StatusCode": 0, "Returns": 0, "ResourceTypes": str(panda.resource_types())}

    async def _get_proxy(self, call: Call) -> Answer:
        return {"StatusCode": 90, "errorDialog": "this dispatcher has no proxies: it speaks tokens"}

    async def _get_key_pair(self, call: Call) -> Answer:
        return {"StatusCode": 80, "errorDialog": "this dispatcher keeps no key pairs"}

    async def _access_token(self, call: Call) -> Answer:
        client, key = text(call.given.get("client_name")), text(call.given.get("token_key"))
        token = self._calls.renewed(call.party, client, key)
        if token is None:
            return {"StatusCode": 50, "errorDialog": "the token key is not of this client"}
        return {"StatusCode": 0, "userProxy": token}

    async def _debug_mode(self, call: Call) -> Answer:
        return "Succeeded"

    async def _event_ranges(self, call: Call) -> Answer:
        return {"StatusCode": 0, "eventRanges": []}

    async def _update_event_ranges(self, call: Call) -> Answer:
        ranges = _decoded(call.given.get("eventRanges"))
        there = len(ranges) if isinstance(ranges, list) else 0
        return {"StatusCode": 0, "Returns": [False] * there, "Command": {}}

    async def _update_event_range(self, call: Call) -> Answer:
        return {"StatusCode": 50, "errorDialog": "there are no event ranges here"}

    # --- Harvester -----------------------------------------------------------------------------------

    async def _get_commands(self, call: Call) -> Answer:
        given = {
            "harvester_id": text(call.given.get("harvester_id") or call.given.get("harvesterID")),
            "n_commands": number(call.given.get("n_commands")) or 20,
        }
        answer = await self._calls.acquire_commands(msgspec.structs.replace(call, given=given))
        return _Json({"StatusCode": 0, "Returns": 0, "Commands": answer["data"]})

    async def _ack_commands(self, call: Call) -> Answer:
        taken = _decoded(call.given.get("command_ids"))
        given = {"command_ids": taken if isinstance(taken, list) else []}
        await self._calls.acknowledge_commands(msgspec.structs.replace(call, given=given))
        return _Json({"StatusCode": 0, "Returns": 0})

    async def _last_worker(self, call: Call) -> Answer:
        instance = text(call.given.get("harvester_id") or call.given.get("harvesterID"))
        return await harvester.last_worker(self._service, instance[:INSTANCE])

    def _pair(self, path: str, names: dict[str, str]) -> Callable[[Call], Awaitable[Answer]]:
        """A method of v1 under its old name: arguments as JSON text, the answer as a pair."""
        method = METHODS[path]
        kinds = {argument.name: argument.kind for argument in method.arguments}

        async def ask(call: Call) -> Answer:
            given: dict[str, Any] = {}
            for old, new in names.items():
                if old in call.given:
                    value = call.given[old]
                    given[new] = _decoded(value) if kinds[new] in (list, dict) else text(value)
            try:
                checked = bound(method, method.verb, given)
            except Refused as refused:
                return [False, str(refused)]
            action = getattr(self._calls, method.call)
            answer = await action(msgspec.structs.replace(call, given=checked))
            return [answer["success"], answer["data"] if answer["success"] else answer["message"]]

        return ask


_PAIRS: dict[str, tuple[str, dict[str, str]]] = {
    "harvesterIsAlive": ("harvester/heartbeat", {"harvesterID": "harvester_id", "data": "data"}),
    "updateWorkers": (
        "harvester/update_workers",
        {"harvesterID": "harvester_id", "workers": "workers"},
    ),
    "reportWorkerStats_jobtype": (
        "harvester/report_worker_statistics",
        {"harvesterID": "harvester_id", "siteName": "panda_queue", "paramsList": "statistics"},
    ),
    "getWorkerStats": ("harvester/get_worker_statistics", {}),
    "updateServiceMetrics": (
        "harvester/update_service_metrics",
        {"harvesterID": "harvester_id", "metrics": "metrics"},
    ),
    "addHarvesterDialogs": (
        "harvester/add_dialogs",
        {"harvesterID": "harvester_id", "dialogs": "dialogs"},
    ),
}


class _Json(dict[str, Any]):
    """An object that PanDA sends as JSON whatever the client says it reads."""


def always_json(answer: Answer) -> bool:
    """Whether an answer is JSON for everybody."""
    return isinstance(answer, _Json | list | int)


def _decoded(value: object) -> Any:
    """JSON text as what it says; other values, and text that is none, as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
