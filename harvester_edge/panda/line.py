"""Requests to a PanDA server, in the dialect that it speaks: v1's paths and arguments, or the old methods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlencode

from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.wire.client import Client, Nonsense, Refused, Trust, Unreachable
from ailurus.wire.dialect import asked

Speech = Literal["v1", "legacy"]
CURRENT = "harvester/get_current_worker_id"
_READ = frozenset(
    {
        CURRENT,
        "metaconfig/get_resource_types",
        "statistics/active_job_detailed_stats_by_site",
    }
)
_LEGACY = {  # v1's path → legacy's method, and its names for the arguments
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


class Line:
    """A server, of which is asked once what it speaks unless the site says so."""

    def __init__(self, client: Client, speaks: Speech | None, trust: Trust | None = None) -> None:
        self._client, self._speaks, self._trust = client, speaks, trust

    @property
    def url(self) -> str:
        return self._client.url

    def speaks(self) -> Speech:
        """Raises Unreachable, or Refused where there is no PanDA."""
        if self._speaks is None:
            found = asked(self.url, self._trust)
            if found == "native":
                self._client.request("GET", "/healthz")  # raises if there is nobody
                raise _refused(
                    "PanDA's words: it is an Ailurus dispatcher",
                    "leave out `dispatcher.panda`, or say `dialect: v1` there",
                )
            self._speaks = found
        return self._speaks

    def ask(self, path: str, given: Mapping[str, Any]) -> Any:
        """What v1's path `path` answers, its data only. Raises Unreachable, Refused or Nonsense."""
        return self._v1(path, given) if self.speaks() == "v1" else self._legacy(path, given)

    def _v1(self, path: str, given: Mapping[str, Any]) -> Any:
        if path in _READ:
            query = f"?{urlencode(given)}" if given else ""
            answer = self._send("GET", f"/api/v1/{path}{query}", None)
        else:
            answer = self._send("POST", f"/api/v1/{path}", json.dumps(given).encode())
        if not isinstance(answer, dict) or "success" not in answer:
            raise Nonsense(f"{self.url} answered with something else than PanDA's v1")
        # no number yet is no success there
        if not answer["success"] and not (path == CURRENT and answer.get("data") is None):
            raise _refused(path, str(answer.get("message")))
        return answer.get("data")

    def _legacy(self, path: str, given: Mapping[str, Any]) -> Any:
        if path not in _LEGACY:
            raise _refused(path, "PanDA's old interface does not have it; `run_mode: slave`")
        method, names = _LEGACY[path]
        form = {
            names.get(name, name): value if isinstance(value, str | int) else json.dumps(value)
            for name, value in given.items()
        }
        kind = "application/x-www-form-urlencoded"
        answer = self._send("POST", f"/server/panda/{method}", urlencode(form).encode(), kind)
        match answer:
            case [bool(good), said]:
                if not good:
                    raise _refused(method, str(said))
                return said
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
            said = text[:300].decode("utf-8", "replace")
            raise Refused(m.Problem(title=f"HTTP {status}", status=status, detail=said))
        try:
            return json.loads(text)
        except ValueError:
            raise Nonsense(f"{self.url}{path} answered with something else than JSON") from None


def _refused(what: str, message: str) -> Refused | Unreachable:
    if message in ("Timed out", "database timeout"):
        return Unreachable("the PanDA server's database does not answer", remedy="later it may")
    return Refused(m.Problem(title=f"the PanDA server refused {what}", status=422, detail=message))
