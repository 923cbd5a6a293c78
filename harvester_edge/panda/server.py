"""Requests to a PanDA server, in its own dialect: v1's paths and arguments, or the old methods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlencode

from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.wire.client import Client, Nonsense, Refused, Unreachable
from ailurus.wire.credentials import Trust
from ailurus.wire.dialect import detect_dialect
from harvester_edge.client import PATIENCE, client, trust
from harvester_edge.site import PandaPart, Site
from harvester_edge.upstream import Probe

Dialect = Literal["v1", "legacy"]
LAST_WORKER_ID = "harvester/get_current_worker_id"
_READ = frozenset(
    {
        LAST_WORKER_ID,
        "metaconfig/get_resource_types",
        "statistics/active_job_detailed_stats_by_site",
    }
)
# v1's path → legacy's method, and its names for the arguments.
_LEGACY = {
    "harvester/heartbeat": ("harvesterIsAlive", {"harvester_id": "harvesterID"}),
    "harvester/acquire_commands": ("getCommands", {}),
    "harvester/acknowledge_commands": ("ackCommands", {}),
    "harvester/get_current_worker_id": ("get_max_worker_id", {}),
    "harvester/update_workers": ("updateWorkers", {"harvester_id": "harvesterID"}),
    "harvester/report_worker_statistics": (
        "reportWorkerStats_jobtype",
        {"harvester_id": "harvesterID", "panda_queue": "siteName", "statistics": "paramsList"},
    ),
    "harvester/add_dialogs": ("addHarvesterDialogs", {"harvester_id": "harvesterID"}),
    "metaconfig/get_resource_types": ("getResourceTypes", {}),
}


class Server:
    """A PanDA server. Its dialect is asked for once, unless the site names it."""

    def __init__(self, client: Client, dialect: Dialect | None, trust: Trust | None = None) -> None:
        self._client, self._dialect, self._trust = client, dialect, trust

    @property
    def url(self) -> str:
        return self._client.url

    def dialect(self) -> Dialect:
        """What the server speaks. Raises Unreachable, or Refused if it is no PanDA server."""
        if self._dialect is None:
            found = detect_dialect(self.url, self._trust)
            if found == "native":
                # Raises if nobody is there.
                self._client.request("GET", "/healthz")
                raise _refused(
                    "PanDA's words: it is an Ailurus dispatcher",
                    "leave out `dispatcher.panda`, or say `dialect: v1` there",
                )
            self._dialect = found
        return self._dialect

    def call(self, path: str, arguments: Mapping[str, Any]) -> Any:
        """The data that v1's `path` answers, whatever the dialect. Raises Unreachable, Refused or
        Nonsense."""
        if self.dialect() == "v1":
            return self._v1(path, arguments)
        return self._legacy(path, arguments)

    def _v1(self, path: str, arguments: Mapping[str, Any]) -> Any:
        if path in _READ:
            query = f"?{urlencode(arguments)}" if arguments else ""
            answer = self._send("GET", f"/api/v1/{path}{query}", None)
        else:
            answer = self._send("POST", f"/api/v1/{path}", json.dumps(arguments).encode())
        if not isinstance(answer, dict) or "success" not in answer:
            raise Nonsense(f"{self.url} answered with something else than PanDA's v1")
        # A server that has given no number yet calls that no success.
        if not answer["success"] and not (path == LAST_WORKER_ID and answer.get("data") is None):
            raise _refused(path, str(answer.get("message")))
        return answer.get("data")

    def _legacy(self, path: str, arguments: Mapping[str, Any]) -> Any:
        if path not in _LEGACY:
            raise _refused(path, "PanDA's old interface does not have it; `run_mode: slave`")
        method, names = _LEGACY[path]
        form = {
            names.get(name, name): value if isinstance(value, str | int) else json.dumps(value)
            for name, value in arguments.items()
        }
        kind = "application/x-www-form-urlencoded"
        answer = self._send("POST", f"/server/panda/{method}", urlencode(form).encode(), kind)
        match answer:
            case [bool(good), data]:
                if not good:
                    raise _refused(method, str(data))
                return data
            case {"StatusCode": code}:
                if panda.number(code) != 0:
                    raise _refused(method, str(answer.get("errorDialog") or code))
                listed = answer.get("Commands", answer.get("ResourceTypes"))
                return json.loads(listed) if isinstance(listed, str) else listed
        return answer

    def _send(
        self, method: str, path: str, body: bytes | None, kind: str = "application/json"
    ) -> Any:
        status, text = self._client.request(method, path, body, kind=kind)
        if status != 200:
            detail = text[:300].decode("utf-8", "replace")
            raise Refused(m.Problem(title=f"HTTP {status}", status=status, detail=detail))
        try:
            return json.loads(text)
        except ValueError:
            raise Nonsense(f"{self.url}{path} answered with something else than JSON") from None


def _refused(what: str, message: str) -> Refused | Unreachable:
    if message in ("Timed out", "database timeout"):
        return Unreachable("the PanDA server's database does not answer", remedy="later it may")
    return Refused(m.Problem(title=f"the PanDA server refused {what}", status=422, detail=message))


def connect(site: Site, part: PandaPart, *, patience_s: float = PATIENCE.total_s) -> Server:
    """The PanDA server of a site. Raises AilurusError if the token file is not private."""
    # PanDA answers an expired token with 403, too.
    calls = client(
        site,
        patience_s=patience_s,
        headers={"Origin": part.origin} if part.origin else {},
        stale=(401, 403),
    )
    return Server(calls, part.dialect, trust(site))


def probe(server: Server, harvester_id: str) -> Probe:
    """Ask the server something that changes nothing. Raises WireError."""
    server.call(LAST_WORKER_ID, {"harvester_id": harvester_id})
    return Probe(f"{server.url} answers as a PanDA server, {server.dialect()}, and takes the token")
