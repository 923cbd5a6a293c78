"""Commands for Harvester instances: one row a command and instance, as PanDA keeps them.

An instance fetches its commands every few seconds. How many workers to start is worked out then,
from the jobs that wait: for queues that it registered for, or where its workers fetch jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from dispatcher.ports import Tx
from dispatcher.rules import records, worker_records
from dispatcher.service import Service
from dispatcher.service.panda import harvester
from dispatcher.service.panda.acquire import intent_of

START = "SET_N_WORKERS_JOBTYPE"
STATISTICS = "REPORT_WORKER_STATS"
# Between two equal commands: an instance needs a minute to submit, and another to report it.
AGAIN_S = 120.0
# After this long without a new worker a queue is not the instance's any more.
PULL_S = 7 * 86_400.0
# Workers of a queue that one command starts.
AT_ONCE = 100
_encode = msgspec.json.Encoder().encode


async def send(
    service: Service, harvester_id: str, name: str, params: Mapping[str, Any], *, ack: bool = True
) -> None:
    """Leave a command for an instance; it replaces the last one of its kind."""
    now = service.state.now()
    await service.store.write(lambda tx: _leave(tx, harvester_id, name, params, now, ack=ack))


async def acquire(service: Service, harvester_id: str, most: int) -> list[dict[str, Any]]:
    """The commands that an instance has not seen yet."""
    demand = await harvester.by_type(service)

    def change(tx: Tx) -> list[dict[str, Any]]:
        now = service.state.now()
        for queue in _wanted(tx, harvester_id, START, now):
            kinds = demand.get(queue, {}).items()
            waiting = {kind: labels["managed"].get("activated", 0) for kind, labels in kinds}
            _start(tx, harvester_id, queue, waiting, now)
        for queue in _wanted(tx, harvester_id, STATISTICS, now):
            _once(tx, harvester_id, f"{STATISTICS}:{queue}", {}, now)
        commands = worker_records.new_commands(tx, harvester_id, max(0, min(most, 1000)))
        for one in commands:
            tx.run("command.move", command_id=one.command_id, state="retrieved")
        return [
            {
                "command_id": one.command_id,
                "command": one.command,
                "params": msgspec.json.decode(one.params),
                "ack_requested": one.ack,
                "creation_date": _date(one.made),
            }
            for one in commands
        ]

    return await service.store.write(change)


def _date(seconds: float) -> str:
    """A time since 1970 as PanDA writes it: UTC, without saying so."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


async def acknowledge(service: Service, command_ids: Sequence[Any]) -> None:
    """Note that an instance has taken commands."""
    ids = [one for one in command_ids if isinstance(one, int) and 0 <= one < 2**63]

    def change(tx: Tx) -> None:
        for command_id in ids:
            tx.run("command.move", command_id=command_id, state="acknowledged")

    await service.store.write(change)


def _wanted(tx: Tx, harvester_id: str, name: str, now: float) -> set[str]:
    """The queues for which an instance is to get a command: those it named when it started, and for
    starting workers those where its pilots fetch jobs themselves."""
    queues = set()
    known = worker_records.find_fact(tx, "harvester", harvester_id, "")
    registered = msgspec.json.decode(known.data) if known else {}
    named = registered.get("commands") if isinstance(registered, dict) else None
    for one in named if isinstance(named, list) else []:
        if isinstance(one, dict) and one.get("command") == name:
            queues.add(str(one.get("computingSite", "")))
    if name == START:
        rows = tx.all("fact.names", kind="pull", owner=harvester_id, since=now - PULL_S)
        queues |= {queue for (queue,) in rows}
    return queues - {""}


def _start(tx: Tx, harvester_id: str, queue: str, waiting: Mapping[str, int], now: float) -> None:
    # Workers that will take what waits.
    number = tx.one("worker.waiting", intent=intent_of(harvester_id), queue=queue)
    coming = records.value(number, 0)
    params: dict[str, int] = {}
    for kind, jobs in waiting.items():
        taken = min(jobs, coming)
        coming -= taken
        if jobs > taken:
            params[kind] = min(jobs - taken, AT_ONCE)
    if params:
        _once(tx, harvester_id, f"{START}:{queue}", {"managed": params}, now)


def _once(tx: Tx, harvester_id: str, name: str, params: Mapping[str, Any], now: float) -> None:
    """Leave a command unless the same has been left a moment ago."""
    _, made = tx.one("command.get", harvester=harvester_id, command=name) or (None, None)
    if made is None or now - made >= AGAIN_S:
        _leave(tx, harvester_id, name, params, now)


def _leave(
    tx: Tx,
    harvester_id: str,
    name: str,
    params: Mapping[str, Any],
    now: float,
    *,
    ack: bool = True,
) -> None:
    tx.run(
        "command.put",
        harvester=harvester_id,
        command=name,
        params=_encode(params).decode(),
        ack=int(ack),
        now=now,
    )
