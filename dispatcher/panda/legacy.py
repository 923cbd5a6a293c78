"""The methods of `/server/panda/`: text in, text or JSON out, values read leniently, names are
not."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ailurus.protocol import panda
from ailurus.protocol.panda import number, text
from ailurus.protocol.panda_acquire import ACQUIRE, job_request
from ailurus.protocol.panda_update import STATES, UPDATE, read_update
from dispatcher.panda import bodies
from dispatcher.panda.bodies import BadBody
from dispatcher.panda.calls import (
    BAD_WORKER_STATE,
    INSTANCE,
    NOT_ACTIVE,
    NOT_YOURS,
    TOO_MANY,
    WORKER_STATES,
    Call,
    Calls,
    reply,
)
from dispatcher.panda.v1 import METHODS, Refused, bound
from dispatcher.ports import Unavailable
from dispatcher.service.panda import acquire, harvester, updates

Answer = dict[str, Any] | list[Any] | str | int | None
"""An object: JSON or `k=v&k=v`, as the client wants. A list, a number or None: JSON as plain text.
Text: as it is."""
BAD_JSON = "failed to load JSON"
_NUMBER = re.compile(r"\s*[+-]?\d+\s*")
# What a pilot without a token may call, for queues that are open.
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
FREE = frozenset({"isAlive"})
_UPDATE = " ".join(name.legacy for name in UPDATE if name.legacy not in ("jobId", "state"))
_NAMES = {
    name: (
        frozenset(word.rstrip("!") for word in words.split()),
        [word[:-1] for word in words.split() if word.endswith("!")],
    )
    for name, words in {
        "isAlive": "",
        "getJob": " ".join(
            f"{one.legacy}{'!' if one.required else ''}" for one in ACQUIRE if one.legacy
        ),
        "updateJob": f"jobId! state! {_UPDATE} token timestamp timeout workdir remainingSpace "
        "messageLevel computingElement",
        "updateJobsInBulk": "jobList! harvester_id",
        "getStatus": "ids! timeout",
        "checkJobStatus": "ids! timeout",
        "updateWorkerPilotStatus": "site! workerID! harvesterID! status! timeout node_id",
        "getResourceTypes": "timeout",
        "getProxy": "role dn",
        "get_access_token": "client_name! token_key",
        "get_token_key": "client_name!",
        "getKeyPair": "publicKeyName! privateKeyName!",
        "setDebugMode": "pandaID! modeOn!",
        "getEventRanges": "pandaID! jobsetID! taskID nRanges timeout scattered segment_id",
        "updateEventRanges": "eventRanges! timeout version pandaID",
        "updateEventRange": "eventRangeID! eventStatus! coreCount cpuConsumptionTime objstoreID "
        "timeout pandaID",
        "checkEventsAvailability": "pandaID! jobsetID! taskID! timeout",
        "getCommands": "harvester_id! n_commands! timeout",
        "ackCommands": "command_ids! timeout",
        "get_max_worker_id": "harvester_id!",
        "harvesterIsAlive": "harvesterID! data",
        "updateWorkers": "harvesterID! workers!",
        "reportWorkerStats_jobtype": "harvesterID! siteName! paramsList!",
        "getWorkerStats": "",
        "updateServiceMetrics": "harvesterID! metrics!",
        "addHarvesterDialogs": "harvesterID! dialogs!",
        "updateLog": "file!",
        "put_checkpoint": "file!",
        "delete_checkpoint": "task_id! sub_id!",
    }.items()
}
"""The parameters of each method, and those that it cannot do without (`!`)."""


def checked(name: str, given: Mapping[str, Any]) -> None:
    """Raise BadBody for parameters that a method does not have, or when one is missing that it
    needs."""
    known, needed = _NAMES[name]
    for one in given:
        if one not in known:
            raise BadBody(f"{name}() got an unexpected keyword argument '{one[:200]}'")
    if missing := [f"'{word}'" for word in needed if word not in given]:
        *most, last = missing
        named = f"{', '.join(most)}{',' if len(most) > 1 else ''} and {last}" if most else last
        s = "s" if most else ""
        raise BadBody(f"{name}() missing {len(missing)} required positional argument{s}: {named}")


class Legacy:
    """The methods by name. Harvester's go on to v1, whose answers are wrapped as pairs."""

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
            "get_token_key": self._token_key,
            "checkEventsAvailability": self._events_available,
            "getEventRanges": self._event_ranges,
            "updateEventRanges": self._update_event_ranges,
            "updateEventRange": self._update_event_range,
            "getCommands": self._get_commands,
            "ackCommands": self._ack_commands,
            "get_max_worker_id": self._last_worker,
            "getWorkerStats": self._worker_statistics,
            "updateLog": self._update_log,
            "put_checkpoint": self._put_checkpoint,
            "delete_checkpoint": self._delete_checkpoint,
            **{name: self._pair(*how) for name, how in _PAIRS.items()},
        }

    async def _is_alive(self, call: Call) -> Answer:
        return "alive=yes"

    async def _get_job(self, call: Call) -> Answer:
        given = call.given
        request = job_request(given, "legacy")
        wanted = self._calls.acquisition(
            call,
            request,
            harvester_id=request.harvester_id,
            proxy_key=request.proxy_key == "True",
        )
        if not call.identity.serves(request.site):
            return status(60, NOT_YOURS, as_json=call.json)
        try:
            jobs = await acquire.acquire(self._service, wanted)
        except Unavailable:
            return status(10, "database timeout", as_json=call.json)
        if not jobs:
            return status(20, "no jobs in PanDA", as_json=call.json)
        if "nJobs" not in given:
            return jobs[0]
        return {"StatusCode": 0, "jobs": jobs if call.json else json.dumps(jobs)}

    async def _update_job(self, call: Call) -> dict[str, Any]:
        update = read_update(call.given, "legacy")
        job_id = call.given.get("jobId")
        if update.state not in STATES or job_id == "NULL":
            return {"StatusCode": 0}
        if update.job_id is None and _NUMBER.fullmatch(str(job_id)):
            # Too large for any job that there is.
            return reply(updates.TOBEKILLED)
        if update.job_id is None:
            raise BadBody(f"invalid literal for int() with base 10: {str(job_id)[:200]!r}")
        try:
            return reply(await updates.update(self._service, call.identity, update))
        except Unavailable:
            return {"StatusCode": 30}

    async def _update_jobs(self, call: Call) -> Answer:
        entries = _decoded(call.given["jobList"])
        failed = f"updateJobsInBulk {call.given.get('harvester_id')} failed with"
        if not isinstance(entries, list):
            return [False, f"{failed} {BAD_JSON}"]
        answers: list[Any] = []
        for entry in entries:
            try:
                if not isinstance(entry, dict):
                    raise BadBody("TypeError a job is no object")
                for one in ("jobId", "state"):
                    if one not in entry:
                        raise BadBody(f"KeyError '{one}'")
                checked("updateJob", entry)
                answer = await self._update_job(msgspec.structs.replace(call, given=entry))
            except BadBody as error:
                return [False, f"{failed} {error}"]
            content = json.dumps(answer)
            shown = {"type": "json", "content": content} if call.json else panda.to_text(answer)
            answers.append(shown)
        return [True, answers]

    async def _get_status(self, call: Call) -> Answer:
        wanted = [number(one) or 0 for one in text(call.given.get("ids")).split()]
        found = await self._calls.states(call.identity, wanted)
        if found is None:
            return panda.to_text({"StatusCode": 30, "errorDialog": TOO_MANY})
        answer = {
            "StatusCode": 0,
            "status": "+".join(state or "notfound" for _, state, _ in found),
            "attemptNr": "+".join(str(attempt_nr) for _, _, attempt_nr in found),
        }
        # Whatever the client says that it reads.
        return panda.to_text(answer)

    async def _check_job_status(self, call: Call) -> Answer:
        wanted = [number(one) or 0 for one in text(call.given.get("ids")).split(",")]
        found = await self._calls.states_and_commands(call.identity, wanted)
        if found is None:
            return _Json({"StatusCode": 30, "errorDialog": TOO_MANY})
        return _Json({"StatusCode": 0, "data": found})

    async def _worker_status(self, call: Call) -> Answer:
        given = call.given
        if given["status"] not in WORKER_STATES:
            return BAD_WORKER_STATE
        instance = text(given["harvesterID"])[:INSTANCE]
        worker_id = number(given["workerID"]) or 0
        if not instance or worker_id < 1:
            return {"StatusCode": 30}
        key = acquire.WorkerKey(intent=acquire.intent_of(instance), index=worker_id)
        if given["status"] == "started":
            site, node = text(given["site"]), text(given.get("node_id"))
            await acquire.worker_started(self._service, call.identity, key, site[:200], node)
        else:
            await acquire.worker_ended(self._service, call.identity, key)
        return {"StatusCode": 0}

    async def _resource_types(self, call: Call) -> Answer:
        # To a client that does not read JSON, as the text of a Python list: Pilot 3 reads that.
        return {"StatusCode": 0, "Returns": 0, "ResourceTypes": panda.resource_types()}

    async def _get_proxy(self, call: Call) -> Answer:
        return _Json({"StatusCode": 90, "errorDialog": "proxy not found: this dispatcher has none"})

    async def _get_key_pair(self, call: Call) -> Answer:
        return {"StatusCode": 80, "errorDialog": "this dispatcher keeps no key pairs"}

    async def _token_key(self, call: Call) -> Answer:
        return {"StatusCode": 0, **(await self._calls.get_token_key(call))["data"]}

    async def _access_token(self, call: Call) -> Answer:
        client, key = text(call.given["client_name"]), text(call.given.get("token_key"))
        token = self._calls.renewed(call.identity, client, key)
        if token is None:
            message = f"failed since token key is invalid for {client[:200]}"
            return _Json({"StatusCode": 50, "errorDialog": message})
        return _Json({"StatusCode": 0, "errorDialog": "", "userProxy": token})

    async def _debug_mode(self, call: Call) -> Answer:
        job_id = number(call.given["pandaID"]) or 0
        mode = str(call.given["modeOn"]).lower() == "true"
        if await updates.set_debug(self._service, call.identity, job_id, mode=mode):
            return "Succeeded"
        return NOT_ACTIVE.format(job_id)

    async def _event_ranges(self, call: Call) -> Answer:
        return {"StatusCode": 0, "eventRanges": []}

    async def _events_available(self, call: Call) -> Answer:
        return _Json({"StatusCode": 0, "nEventRanges": 0})

    async def _update_event_ranges(self, call: Call) -> Answer:
        ranges = _decoded(call.given.get("eventRanges"))
        taken: list[bool] = [False] * (len(ranges) if isinstance(ranges, list) else 0)
        # Harvester's, and those of jumbo jobs.
        if number(call.given.get("version")):
            return {"StatusCode": 0, "Returns": taken, "Command": {}}
        return {"StatusCode": 0, "Returns": json.dumps(taken), "Command": "{}"}

    async def _update_event_range(self, call: Call) -> Answer:
        return panda.to_text({"StatusCode": 30})

    # --- Harvester --------------------------------------------------------------------------------

    async def _get_commands(self, call: Call) -> Answer:
        given = {
            "harvester_id": text(call.given["harvester_id"]),
            "n_commands": number(call.given["n_commands"]) or 0,
        }
        answer = await self._calls.acquire_commands(msgspec.structs.replace(call, given=given))
        return {"StatusCode": 0, "Returns": 0, "Commands": answer["data"]}

    async def _ack_commands(self, call: Call) -> Answer:
        taken = _decoded(call.given["command_ids"])
        given = {"command_ids": taken if isinstance(taken, list) else []}
        await self._calls.acknowledge_commands(msgspec.structs.replace(call, given=given))
        return {"StatusCode": 0, "Returns": 0}

    async def _last_worker(self, call: Call) -> Answer:
        return await harvester.last_worker(
            self._service, text(call.given["harvester_id"])[:INSTANCE]
        )

    async def _worker_statistics(self, call: Call) -> Answer:
        return json.dumps(await harvester.statistics(self._service))

    async def _update_log(self, call: Call) -> Answer:
        if not isinstance(call.given["file"], bodies.Upload):
            return "ERROR: cannot update file with what is no file"
        answer = await self._calls.update_jedi_log(call)
        return "True" if answer["success"] else str(answer["message"])

    async def _put_checkpoint(self, call: Call) -> Answer:
        if not isinstance(call.given["file"], bodies.Upload):
            return json.dumps({"status": False, "message": "failed to extract ID"})
        answer = await self._calls.upload_hpo_checkpoint(call)
        return json.dumps({"status": answer["success"], "message": answer["message"]})

    async def _delete_checkpoint(self, call: Call) -> Answer:
        answer = await self._calls.delete_hpo_checkpoint(call)
        return json.dumps({"status": answer["success"], "message": answer["message"] or "done"})

    def _pair(
        self, path: str, names: dict[str, str], done: str
    ) -> Callable[[Call], Awaitable[Answer]]:
        """A method of v1 under its old name: arguments as JSON text, the answer as a pair, with
        `done` where v1 has no data."""
        method = METHODS[path]
        kinds = {argument.name: argument.kind for argument in method.arguments}

        async def answer_pair(call: Call) -> Answer:
            given: dict[str, Any] = {}
            for old, new in names.items():
                if old in call.given:
                    value = call.given[old]
                    given[new] = _decoded(value) if kinds[new] in (list, dict) else text(value)
            if any(isinstance(given.get(n), str) and kinds[n] in (list, dict) for n in given):
                return [False, BAD_JSON]
            try:
                right = bound(method, method.verb, given)
            except Refused as refused:
                return [False, str(refused)]
            action = getattr(self._calls, method.call)
            answer = await action(msgspec.structs.replace(call, given=right))
            if not answer["success"]:
                return [False, answer["message"]]
            return [True, done if answer["data"] is None else answer["data"]]

        return answer_pair


_PAIRS: dict[str, tuple[str, dict[str, str], str]] = {
    "harvesterIsAlive": (
        "harvester/heartbeat",
        {"harvesterID": "harvester_id", "data": "data"},
        "succeeded",
    ),
    "updateWorkers": (
        "harvester/update_workers",
        {"harvesterID": "harvester_id", "workers": "workers"},
        "",
    ),
    "reportWorkerStats_jobtype": (
        "harvester/report_worker_statistics",
        {"harvesterID": "harvester_id", "siteName": "panda_queue", "paramsList": "statistics"},
        "OK",
    ),
    "updateServiceMetrics": (
        "harvester/update_service_metrics",
        {"harvesterID": "harvester_id", "metrics": "metrics"},
        "",
    ),
    "addHarvesterDialogs": (
        "harvester/add_dialogs",
        {"harvesterID": "harvester_id", "dialogs": "dialogs"},
        "",
    ),
}


class _Json(dict[str, Any]):
    """An object that PanDA sends as JSON whatever the client says it reads."""


def encoded(answer: Answer, headers: bodies.Headers) -> tuple[bytes, str]:
    """An answer and its content type. Pairs and numbers are JSON that calls itself text."""
    if isinstance(answer, str):
        return answer.encode(), bodies.TEXT
    if isinstance(answer, _Json):
        return json.dumps(answer).encode(), bodies.JSON
    if isinstance(answer, dict):
        return bodies.legacy(answer, headers)
    return json.dumps(answer).encode(), bodies.TEXT


def status(code: int, message: str, *, as_json: bool) -> dict[str, Any]:
    """An answer with a code, and with the message for a client that reads JSON."""
    return {"StatusCode": code, "errorDialog": message} if as_json else {"StatusCode": code}


def _decoded(value: object) -> Any:
    """The value of JSON text; other values, and other text, as they are."""
    if not isinstance(value, str):
        return value
    try:
        return bodies.within(value)
    except (ValueError, RecursionError):
        return value
