"""The methods of `/api/v1/`, each a translation of its arguments and of the answer."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from ailurus.protocol import panda
from ailurus.protocol.api import Scope
from ailurus.protocol.panda_acquire import JobRequest, job_request
from ailurus.protocol.panda_update import STATES, JobUpdate, read_update
from dispatcher.auth.tokens import Issuer
from dispatcher.panda import bodies
from dispatcher.panda.files import Queue
from dispatcher.panda.v1 import METHODS, P, Refused, bound, failure, success
from dispatcher.ports import Unavailable
from dispatcher.service import Service
from dispatcher.service.panda import acquire, commands, harvester, updates, uploads
from dispatcher.service.panda.identity import Identity

T = TypeVar("T")
NO_JOBS = "No jobs in PanDA"
NO_IDENTITY = "SSL secure connection is required"
NO_ROLE = "production or pilot role required"
NOT_YOURS = "no production/pilot role in VOMS FQANs or non pilot owner"
BROKEN = "database error in the PanDA server"
NOT_ACTIVE = "PandaID={} not found in active DB"
NO_STATISTICS = "Database failure getting the job statistics"
WORKER_STATES = ("started", "finished")
BAD_WORKER_STATE = f"Invalid worker state. The worker state has to be in {WORKER_STATES}"
TOKEN_S = 86_400
# Job ids of one question, and of them in one read of the store: other questions come between.
IDS = 10_000
SLICE = 1000
TOO_MANY = f"more than {IDS} job ids in one question"
# Characters of a Harvester's name.
INSTANCE = 180
_UPDATE = METHODS["pilot/update_job"]


class Call(Struct, frozen=True):
    """A call: the client, its arguments, and our own address as the client knows it."""

    identity: Identity
    given: dict[str, Any]
    home: str = ""
    transforms: str = ""
    # Whether the client reads JSON.
    json: bool = True


def reply(command: str | None) -> dict[str, Any]:
    """The answer to an update, with the command for the pilot."""
    return {"StatusCode": 0, "command": command or "NULL"}


def _ids(values: Sequence[Any]) -> list[int]:
    """The job ids among the values; 0, which no job has, for all else."""
    return [one if isinstance(one, int) and 0 < one < 2**63 else 0 for one in values]


class Calls:
    """One method a name of the table `v1.METHODS`. The door has checked the arguments and the
    role."""

    def __init__(
        self, service: Service, issuer: Issuer, queue: Callable[[str, str], Queue]
    ) -> None:
        self.service = service
        self.queue = queue
        self.issuer = issuer

    async def is_alive(self, call: Call) -> dict[str, Any]:
        return success(None)

    # --- pilots -----------------------------------------------------------------------------------

    async def acquire_jobs(self, call: Call) -> dict[str, Any]:
        request = job_request(call.given, "v1")
        scheduler = request.scheduler_id
        instance = (
            scheduler.removeprefix("harvester-") if scheduler.startswith("harvester-") else ""
        )
        wanted = self.acquisition(
            call,
            request,
            harvester_id=request.harvester_id or instance,
            proxy_key=bool(request.proxy_key),
        )
        if fault := _architecture_fault(request.architecture):
            return failure(fault)
        if not call.identity.serves(request.site):
            return failure(NOT_YOURS if call.identity.known else NO_IDENTITY)
        jobs = await acquire.acquire(self.service, wanted)
        return success({"StatusCode": 0, "jobs": jobs}) if jobs else failure(NO_JOBS)

    def acquisition(
        self, call: Call, request: JobRequest, *, harvester_id: str, proxy_key: bool
    ) -> acquire.Acquisition:
        """A request for jobs with what the dispatcher knows of its queue and of the client."""
        queue = self.queue(request.site, request.resource_type)
        return acquire.Acquisition(
            request=request,
            harvester_id=harvester_id[:INSTANCE],
            storage=queue.storage,
            log_storage=queue.log_storage,
            rucio=queue.rucio,
            place=queue.place,
            size=queue.size,
            transforms=call.transforms,
            home=call.home,
            proxy_key=proxy_key and call.identity.production,
        )

    async def get_job_status(self, call: Call) -> dict[str, Any]:
        job_ids = call.given["job_ids"]
        found = await self.states(call.identity, job_ids)
        if found is None:
            return failure(TOO_MANY)
        return success(
            [
                {"job_id": job_id, "status": state or "not found", "attempt_number": attempt_nr}
                for job_id, (_, state, attempt_nr) in zip(job_ids, found, strict=True)
            ]
        )

    async def get_status(self, call: Call) -> dict[str, Any]:
        found = await self.states_and_commands(call.identity, call.given["job_ids"])
        return failure(TOO_MANY) if found is None else success(found)

    async def states(
        self, identity: Identity, values: Sequence[Any]
    ) -> list[tuple[int, str, int]] | None:
        """Id, state and attempt of each job, in order. None: these are too many."""
        return await self._in_slices(updates.states, identity, values)

    async def states_and_commands(
        self, identity: Identity, values: Sequence[Any]
    ) -> list[dict[str, Any]] | None:
        """The same as state and command."""
        return await self._in_slices(updates.states_and_commands, identity, values)

    async def _in_slices(
        self,
        look: Callable[[Service, Identity, Sequence[int]], Awaitable[list[T]]],
        identity: Identity,
        values: Sequence[Any],
    ) -> list[T] | None:
        """What `look` finds of each job. Answers are by position, so none may be left out."""
        if len(values) > IDS:
            return None
        wanted = _ids(values)
        found: list[T] = []
        for at in range(0, len(wanted), SLICE):
            found += await look(self.service, identity, wanted[at : at + SLICE])
        return found

    async def set_debug_mode(self, call: Call) -> dict[str, Any]:
        job_id, mode = call.given["job_id"], call.given["mode"]
        if await updates.set_debug(self.service, call.identity, job_id, mode=mode):
            return success(None, "Succeeded")
        return failure(NOT_ACTIVE.format(job_id))

    async def update_job(self, call: Call) -> dict[str, Any]:
        return await self._update(call.identity, read_update(call.given, "v1"))

    async def _update(self, identity: Identity, update: JobUpdate) -> dict[str, Any]:
        if update.state not in STATES:
            return failure(f"Invalid job status: {update.state}", {"StatusCode": 50})
        try:
            return success(reply(await updates.update(self.service, identity, update)))
        # PanDA calls this a success: clients look at the code inside.
        except Unavailable:
            return success({"StatusCode": 30}, "Database error")

    async def update_jobs_bulk(self, call: Call) -> dict[str, Any]:
        answers = []
        for entry in call.given["job_list"]:
            if not isinstance(entry, dict):
                shown = type(entry).__name__
                return failure(f"failed with TypeError '{shown}' object is not subscriptable", [])
            # Then nothing is applied; a PanDA server applies the entries before it, without saying
            # so.
            for name in ("job_id", "job_status"):
                if name not in entry:
                    return failure(f"failed with KeyError '{name}'", [])
        for entry in call.given["job_list"]:
            if entry.get("meta_data") is not None:
                entry["meta_data"] = str(entry["meta_data"])
            try:
                update = read_update(bound(_UPDATE, P, entry), "v1")
            except Refused as refused:
                answers.append(failure(str(refused)))
            else:
                answers.append(await self._update(call.identity, update))
        return success(answers)

    async def update_worker_status(self, call: Call) -> dict[str, Any]:
        given = call.given
        if given["status"] not in WORKER_STATES:
            return failure(BAD_WORKER_STATE)
        worker_id = panda.number(given["worker_id"]) or 0
        key = acquire.WorkerKey(intent=acquire.intent_of(_instance(call)), index=worker_id)
        if worker_id < 1:
            return failure("Failed to update worker status")
        if given["status"] == "started":
            node = panda.text(given.get("node_id"))
            await acquire.worker_started(self.service, call.identity, key, "", node)
        else:
            await acquire.worker_ended(self.service, call.identity, key)
        return success(None)

    async def update_worker_node(self, call: Call) -> dict[str, Any]:
        given = call.given
        await harvester.keep_node(self.service, "node", given["site"], given["host_name"], given)
        return success(None, "Inserted new worker node.")

    async def update_worker_node_gpu(self, call: Call) -> dict[str, Any]:
        given = call.given
        name = f"{given['host_name']} {given['vendor']} {given['model']}"
        known = await harvester.keep_node(self.service, "gpu", given["site"], name, given)
        done = "Updated existing" if known else "Inserted new"
        return success(None, f"{done} worker node GPU.")

    # --- the system, for pilots and Harvester -----------------------------------------------------

    async def get_resource_types(self, call: Call) -> dict[str, Any]:
        return success(panda.resource_types())

    async def active_job_stats_by_site(self, call: Call) -> dict[str, Any]:
        return _numbers(await harvester.by_site(self.service), NO_STATISTICS)

    async def active_job_detailed_stats_by_site(self, call: Call) -> dict[str, Any]:
        blank = f"{NO_STATISTICS} with resource_type and prodsourcelabel"
        return _numbers(await harvester.by_type(self.service), blank)

    async def get_proxy(self, call: Call) -> dict[str, Any]:
        return failure("this dispatcher has no proxies: it speaks tokens")

    async def get_key_pair(self, call: Call) -> dict[str, Any]:
        return failure("this dispatcher keeps no key pairs")

    async def get_token_key(self, call: Call) -> dict[str, Any]:
        if not call.identity.production:
            return failure(NO_ROLE)
        return success({"tokenKey": self._token_key(call.given["client_name"])})

    async def get_access_token(self, call: Call) -> dict[str, Any]:
        client = call.given["client_name"]
        token = self.renewed(call.identity, client, call.given.get("token_key"))
        if token is None:
            return failure(f"failed since token key is invalid for {client}")
        return success({"user_proxy": token, "userProxy": token})

    def renewed(self, identity: Identity, client: str, key: str | None) -> str | None:
        """A new token for a pilot whose own is still good, and who has the key of its client."""
        good = hmac.compare_digest(self._token_key(client).encode(), (key or "").encode())
        if not good or not identity.caller.may(Scope.PILOT):
            return None
        caller = identity.caller
        return self.issuer.mint(caller.subject, (Scope.PILOT,), TOKEN_S, of=caller.lineage).token

    def _token_key(self, client: str) -> str:
        return self.service.seals.key(f"panda token of {client}")

    # --- events: there is no event service here; the answers have the shapes that clients read ----

    async def acquire_event_ranges(self, call: Call) -> dict[str, Any]:
        return success({"StatusCode": 0, "eventRanges": []})

    async def update_event_ranges(self, call: Call) -> dict[str, Any]:
        return success({"StatusCode": 0, "Returns": [], "Commands": {}})

    async def update_single_event_range(self, call: Call) -> dict[str, Any]:
        return failure(BROKEN)

    async def get_available_event_range_count(self, call: Call) -> dict[str, Any]:
        return success(0)

    # --- Harvester --------------------------------------------------------------------------------

    async def heartbeat(self, call: Call) -> dict[str, Any]:
        data = call.given.get("data") or {}
        await harvester.heartbeat(self.service, _instance(call), data)
        return success(None)

    async def acquire_commands(self, call: Call) -> dict[str, Any]:
        most = call.given["n_commands"]
        return success(await commands.acquire(self.service, _instance(call), most))

    async def acknowledge_commands(self, call: Call) -> dict[str, Any]:
        await commands.acknowledge(self.service, call.given["command_ids"])
        return success(None)

    async def send_command(self, call: Call) -> dict[str, Any]:
        given = call.given
        await commands.send(self.service, _instance(call), given["command"][:500], given["params"])
        return success(None)

    async def update_workers(self, call: Call) -> dict[str, Any]:
        workers = call.given["workers"]
        return success(await harvester.update_workers(self.service, _instance(call), workers))

    async def report_worker_statistics(self, call: Call) -> dict[str, Any]:
        given = call.given
        try:
            await harvester.keep_statistics(
                self.service, _instance(call), given["panda_queue"], given["statistics"]
            )
        except ValueError as error:
            return failure(f"database error: 'statistics' cannot be read: {error}")
        return success(None, "OK")

    async def get_worker_statistics(self, call: Call) -> dict[str, Any]:
        return success(await harvester.statistics(self.service))

    async def update_service_metrics(self, call: Call) -> dict[str, Any]:
        metrics = call.given["metrics"]
        kept = await harvester.keep_metrics(self.service, _instance(call), metrics)
        return success([True]) if kept else failure(BROKEN)

    async def add_dialogs(self, call: Call) -> dict[str, Any]:
        try:
            await harvester.keep_dialogs(self.service, _instance(call), call.given["dialogs"])
        except ValueError as error:
            return failure(f"{BROKEN}: 'dialogs' cannot be read: {error}")
        return success(None)

    async def get_current_worker_id(self, call: Call) -> dict[str, Any]:
        last = await harvester.last_worker(self.service, _instance(call))
        return failure(BROKEN) if last is None else success(last)

    async def add_sweep_command(self, call: Call) -> dict[str, Any]:
        given = call.given
        instances = await harvester.instances_of(self.service, given["panda_queue"])
        if not instances:
            return failure("Queue not served by any harvester ID")
        params = {
            "status": given["status_list"],
            "computingSite": [given["panda_queue"]],
            "computingElement": given["ce_list"] or "ALL",
            "submissionHost": given["submission_host_list"] or "ALL",
        }
        for instance in instances:
            await commands.send(self.service, instance, "KILL_WORKERS", params, ack=False)
        return success(None)

    # --- files ------------------------------------------------------------------------------------

    async def upload_jedi_log(self, call: Call) -> dict[str, Any]:
        file = call.given["file"]
        try:
            name = await uploads.put(self.service, file.name, file.data)
        except ValueError as error:
            return failure(str(error))
        return success(f"{call.home}/cache/{name}")

    async def update_jedi_log(self, call: Call) -> dict[str, Any]:
        file = call.given["file"]
        try:
            await uploads.append(self.service, file.name, file.data)
        except ValueError as error:
            return failure(f"ERROR: cannot update file with {error}")
        return success(None)

    async def upload_hpo_checkpoint(self, call: Call) -> dict[str, Any]:
        file = call.given["file"]
        try:
            name = await uploads.put(self.service, uploads.checkpoint(file.name), file.data)
        except ValueError as error:
            return failure(str(error))
        return success(f"/cache/{name}", f"Successfully placed at /cache/{name}")

    async def delete_hpo_checkpoint(self, call: Call) -> dict[str, Any]:
        given = call.given
        try:
            known = await uploads.remove(
                self.service, uploads.checkpoint(f"{given['task_id']}_{given['sub_id']}")
            )
        except ValueError as error:
            return failure(f"Failed to delete file due to {error}")
        return success(None) if known else failure("Failed to delete file due to no such file")


def _architecture_fault(given: Any) -> str:
    """What is wrong with a pilot's account of its hardware; blank for nothing. We do not match by
    it."""
    if not given:
        return ""
    if isinstance(given, str):
        try:
            given = bodies.within(given)
        except (ValueError, RecursionError) as error:
            return f"failed to parse target_architecture with {error}"
    return "" if isinstance(given, dict) else "target_architecture must be a JSON object"


def _numbers(found: dict[str, Any], blank: str) -> dict[str, Any]:
    """Statistics. A PanDA server takes none at all for a fault of its database."""
    return success(found) if found else failure(blank, {})


def _instance(call: Call) -> str:
    return str(call.given["harvester_id"])[:INSTANCE]
