"""What PanDA's pilots load before they ask for jobs: queue and storage descriptions, the transform.

These need no token, as with PanDA: a pilot loads them before it has read its own.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol import panda
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Room
from dispatcher.panda import harvester
from dispatcher.panda.acquire import BOUNDLESS, MANY_CORES
from dispatcher.panda.described import described, storages
from dispatcher.ports import Tx
from dispatcher.rules import records, specs
from dispatcher.service import Service

STORAGE = "AILURUS_DISK"
_QUEUE = re.compile(
    r"/cache/schedconfig/([A-Za-z0-9_][A-Za-z0-9_:+@=-]{0,199})(\.all|\.pilot)?\.json"
)
_JOB = re.compile(r"/trf/job/(\d{1,18})\.(\d{1,18})\.(\d{1,18})\.([0-9a-f]{40})")
_SCRIPT = re.compile(rf"/trf/(?:user/)?{panda.TRANSFORM}")
_QUEUES = ("/cache/cric_pandaqueues.json", "/cache/schedconfig/cric_pandaqueues.json")
_STORAGES = (
    "/cache/cric_ddmendpoints.json",
    "/cache/schedconfig/cric_ddmendpoints.json",
    "/cache/ddmendpoints.json",  # where Pilot 3 looks that was told of none
)
_SIZE: dict[str, float] = {"corecount": 1, "maxwdir": 100_000, "maxrss": 0, "maxtime": 0}
"""What a pilot is told of its size where nobody has described its queue: MB, seconds; 0: no limit."""
_ACTIVITIES = ("pr", "pw", "pl", "read_lan", "write_lan", "default")
log = Log("panda")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobSpec).decode


class Queue(Struct, frozen=True):
    """What is known of the pilots of a queue."""

    storage: str = ""
    """Where they write to. Blank: nobody has said."""
    size: Room = Room(cores=1, memory_mb=BOUNDLESS, disk_mb=BOUNDLESS)


def script() -> bytes:
    """The transform."""
    return files("dispatcher.panda").joinpath("trf", panda.TRANSFORM).read_bytes()


class Files:
    """Answers GETs. `storage`: the directory that is the sites' file storage, if there is one;
    `folder`: the operator's own descriptions, QUEUE.json and ddmendpoints.json."""

    def __init__(self, service: Service, storage: str = "", folder: Path | None = None) -> None:
        self._service = service
        self._storage = storage
        self._folder = folder

    async def get(self, path: str) -> bytes | None:
        """The content of a file, or None: there is no such one. Raises AilurusError: the operator's
        description cannot be read."""
        if _SCRIPT.fullmatch(path):
            return script()
        if named := _JOB.fullmatch(path):
            job_id, attempt_nr, worker_id = (int(part) for part in named.groups()[:3])
            return await self._job(job_id, attempt_nr, worker_id, named[4])
        if path in _QUEUES:
            names = await harvester.by_type(self._service)
            return _encode(dict(self._good(names)))
        if path in _STORAGES:
            return _encode(self._storages())
        if named := _QUEUE.fullmatch(path):
            one = self._queue(named[1])
            return _encode(one if named[2] else {named[1]: one})
        return None

    async def _job(self, job_id: int, attempt_nr: int, worker_id: int, key: str) -> bytes | None:
        """What of a job is too long for a command line: for who was given its key."""
        good = self._service.key(f"panda job {job_id}.{attempt_nr}.{worker_id}")
        if not hmac.compare_digest(good, key):
            return None

        def look(tx: Tx) -> bytes | None:
            attempt = records.find_attempt(tx, job_id, attempt_nr)
            return specs.body(tx, job_id) if attempt else None

        return await self._service.store.read(look)

    def _good(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Queues with what is told of each; one with a bad description hides none of the others."""
        for name in sorted(names):
            try:
                yield name, self._queue(name)
            except AilurusError as error:
                log.warning("description_bad", file=error.field, what=error.message)

    def _queue(self, name: str) -> dict[str, Any]:
        tools = {activity: ["mv"] for activity in _ACTIVITIES}
        ours: dict[str, Any] = {
            "name": name,
            "nickname": name,
            "panda_resource": name,
            "siteid": name,
            "atlas_site": name,
            "gstat": name,
            "site": name,
            "state": "ACTIVE",
            "status": "online",
            "type": "unified",
            "resource_type": "GRID",
            "copytools": {"mv": {}},
            "acopytools": tools,
            "astorages": {activity: [STORAGE] for activity in _ACTIVITIES},
            "container_type": "",
            "container_options": "",
            "catchall": "mv_final_destination,no_token_renewal" if self._storage else "",
            "params": {"internet_protocol_version": "IPv4"},
            **_SIZE,
            "maxinputsize": -1,
            "timefloor": 0,
            "direct_access_lan": False,
            "direct_access_wan": False,
            "allow_lan": True,
            "allow_wan": False,
            "is_cvmfs": False,
            "use_pcache": False,
            "appdir": "",
            "environ": "",
        }
        return {**ours, **described(self._folder, name)}

    def queue(self, name: str, resource_type: str = "") -> Queue:
        """What a queue's pilots are, of which one asks for a job of a `resource_type`."""
        try:
            own = described(self._folder, name)
        except AilurusError as error:  # said to who asks for the description, too
            log.warning("description_bad", file=error.field, what=error.message)
            return Queue()
        told = {**_SIZE, **{key: own[key] for key in _SIZE if own.get(key)}}
        # of a queue that nobody has described, a pilot for several cores knows better than we how many
        many = not own.get("corecount") and resource_type.startswith("MCORE")
        size = Room(
            cores=MANY_CORES if many else int(told["corecount"]),
            memory_mb=int(told["maxrss"]) or BOUNDLESS,
            disk_mb=int(told["maxwdir"]) or BOUNDLESS,
            seconds_left=told["maxtime"] or None,
        )
        return Queue(self._storage_of(own), size)

    def _storage_of(self, own: dict[str, Any]) -> str:
        stores = own.get("astorages") or {}
        for activity in ("pw", "write_lan", "default"):
            if names := stores.get(activity):
                return str(names[0])
        return STORAGE if self._storage else ""

    def _storages(self) -> dict[str, Any]:
        protocols = [
            {
                "endpoint": "file://localhost",
                "path": f"{self._storage}/",
                "flavour": "LOCAL",
                "id": 1,
            }
        ]
        uses = ("read_lan", "write_lan", "read_wan", "write_wan")
        ours = {
            "id": 1,
            "name": STORAGE,
            "state": "ACTIVE",
            "site": "AILURUS",
            "type": "DATADISK",
            "token": "",
            "is_deterministic": True,
            "arprotocols": dict.fromkeys(uses, protocols),
            "rprotocols": {"1": protocols[0]},
            "resource": {},
        }
        return {STORAGE: ours, **storages(self._folder)}
