"""Files that PanDA's pilots load before they request jobs: queue and storage data, the transform.

These need no token, as with PanDA: a pilot loads them before it has read its own.
"""

from __future__ import annotations

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
from dispatcher.panda.queue_data import queue_data, storages
from dispatcher.panda.site_files import STORAGE
from dispatcher.service import Service
from dispatcher.service.panda import acquire, harvester
from dispatcher.service.panda.acquire import BOUNDLESS, MANY_CORES

_QUEUE = re.compile(
    r"/cache/schedconfig/([A-Za-z0-9_][A-Za-z0-9_:+@=-]{0,199})(\.all|\.pilot)?\.json"
)
_JOB = re.compile(r"/trf/job/(\d{1,18})\.(\d{1,18})\.(\d{1,18})\.([0-9a-f]{40})")
_SCRIPT = re.compile(rf"/trf/(?:user/)?{panda.TRANSFORM}")
_QUEUES = ("/cache/cric_pandaqueues.json", "/cache/schedconfig/cric_pandaqueues.json")
_STORAGES = (
    "/cache/cric_ddmendpoints.json",
    "/cache/schedconfig/cric_ddmendpoints.json",
    # Where Pilot 3 looks by default.
    "/cache/ddmendpoints.json",
)
# The size of a pilot whose queue has no data of the operator's: MB, seconds; 0: no limit.
_SIZE: dict[str, float] = {"corecount": 1, "maxwdir": 100_000, "maxrss": 0, "maxtime": 0}
_WRITING = ("pw", "write_lan", "default")
_ACTIVITIES = ("pr", "pw", "pl", "read_lan", "write_lan", "default")
log = Log("panda")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobSpec).decode


class Queue(Struct, frozen=True):
    """What is known of the pilots of a queue."""

    # Where they write outputs to. Blank: it is not known.
    storage: str = ""
    # The same for logs.
    log_storage: str = ""
    # Whether they use Rucio.
    rucio: bool = False
    # Then: where the transform leaves what does not go there. Blank: they stage it out.
    place: str = ""
    size: Room = Room(cores=1, memory_mb=BOUNDLESS, disk_mb=BOUNDLESS)


def _first_of(lists: dict[str, Any], activities: Iterable[str]) -> str:
    """The first entry of the first list that has one; blank: none has."""
    return next((str(lists[one][0]) for one in activities if lists.get(one)), "")


def script() -> bytes:
    """The transform."""
    return files("dispatcher.panda").joinpath("trf", panda.TRANSFORM).read_bytes()


class Files:
    """Answers GETs. `storage`: the directory that is the sites' file storage, if there is one;
    `folder`: the operator's QUEUE.json and ddmendpoints.json."""

    def __init__(self, service: Service, storage: str = "", folder: Path | None = None) -> None:
        self._service = service
        self._storage = storage
        self._folder = folder

    async def get(self, path: str) -> bytes | None:
        """The content of a file; None: there is no such one. Raises AilurusError when a file of the
        operator's cannot be read."""
        if _SCRIPT.fullmatch(path):
            return script()
        if named := _JOB.fullmatch(path):
            job_id, attempt_nr, worker_id = (int(part) for part in named.groups()[:3])
            return await acquire.job_body(self._service, job_id, attempt_nr, worker_id, named[4])
        if path in _QUEUES:
            names = await harvester.by_type(self._service)
            return _encode(dict(self._good(names)))
        if path in _STORAGES:
            return _encode(self._storages())
        if named := _QUEUE.fullmatch(path):
            one = self._queue(named[1])
            return _encode(one if named[2] else {named[1]: one})
        return None

    def _good(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Queues with the data of each; one whose file is bad hides no other."""
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
        return {**ours, **queue_data(self._folder, name)}

    def queue(self, name: str, resource_type: str = "") -> Queue:
        """The pilots of a queue, of which one requests a job of a `resource_type`."""
        try:
            own = queue_data(self._folder, name)
        # A client that loads the queue's data is answered with the same error.
        except AilurusError as error:
            log.warning("description_bad", file=error.field, what=error.message)
            return Queue()
        sizes = {**_SIZE, **{key: own[key] for key in _SIZE if own.get(key)}}
        # Without data of the queue, a pilot for several cores knows better than we how many.
        many = not own.get("corecount") and resource_type.startswith("MCORE")
        size = Room(
            cores=MANY_CORES if many else int(sizes["corecount"]),
            memory_mb=int(sizes["maxrss"]) or BOUNDLESS,
            disk_mb=int(sizes["maxwdir"]) or BOUNDLESS,
            seconds_left=sizes["maxtime"] or None,
        )
        storage = self._first(own.get("astorages"))
        rucio = _first_of(own.get("acopytools") or {}, _WRITING) == "rucio"
        return Queue(
            storage,
            self._first(own.get("astorages"), "pl"),
            rucio,
            f"file://{self._storage}/" if rucio and self._storage else "",
            size,
        )

    def _first(self, stores: dict[str, Any] | None, *activities: str) -> str:
        """The storage that pilots of a queue write to, for the first activity that has one."""
        name = _first_of(stores or {}, (*activities, *_WRITING)) or STORAGE
        return name if name != STORAGE or self._storage else ""

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
