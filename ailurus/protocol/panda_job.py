"""Reads the job dictionary of any PanDA server as a job for our pilot. Pure.

A job of our own dispatcher carries its specification. Any other job is a transform with arguments:
the pilot fetches it and runs it in the job's directory, where it leaves its outputs under their
logical names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol import panda
from ailurus.protocol.did import Did
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import LOG, JobSpec
from ailurus.protocol.resources import Room
from ailurus.protocol.url import Url

_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
Id = tuple[int, int]


class PandaAttempt(Struct, frozen=True):
    """An attempt from a PanDA server, and that server's names for its files."""

    id: Id
    spec: JobSpec
    # It is from our dispatcher, where logical names of outputs carry job and attempt.
    own: bool = True
    # The logical name that the log must have; blank: the server wants no log.
    log: str = ""
    # The log's.
    guid: str = ""
    # Storage by logical name.
    endpoints: dict[str, str] = {}
    mark: str = ""
    """Of the dispatcher's store, in names of Rucio."""

    @property
    def key(self) -> str:
        """This attempt as a report key: in a spool, from which another pilot may report."""
        return f"{'own' if self.own else 'lfn'}:{self.log}"

    @staticmethod
    def of_key(job: Id, key: str) -> PandaAttempt:
        """The attempt, as far as `key` describes it."""
        kind, _, log = key.partition(":")
        return PandaAttempt(job, JobSpec(name="unknown"), own=kind == "own", log=log)

    def lfn(self, name: str) -> str:
        """The logical name of one of our files."""
        if name == LOG:
            return self.log
        if not self.own:
            return name
        scoped = any(file.name == name and file.scope for file in self.spec.outputs)
        return panda.lfn(*self.id, name, self.mark if scoped else "")


def read_attempt(
    dictionary: Mapping[str, Any],
    total: Room,
    fetched: Callable[[str], tuple[JobSpec, panda.Extra]],
) -> PandaAttempt:
    """The attempt in a dictionary, no larger than the worker. `fetched` gets a specification from
    its URL. Raises ValueError for what cannot be run."""
    job: Id = (
        panda.number(dictionary.get("PandaID")) or 0,
        panda.number(dictionary.get("attemptNr")) or 0,
    )
    words = str(dictionary.get("jobPars", "")).split()
    own = str(dictionary.get("transformation", "")).endswith(f"/{panda.TRANSFORM}")
    mark = ""
    if own and words[2:3] == ["-u"]:
        spec, extra = fetched(words[3])
        mark = extra.mark
    elif own:
        sent = panda.read_job(dictionary)
        spec, mark = sent.spec, sent.mark
    else:
        spec = _foreign(dictionary, job)
    spec = msgspec.structs.replace(
        spec,
        cores=min(spec.cores, max(1, total.cores)),
        memory_mb=min(spec.memory_mb, max(1, total.memory_mb)),
        disk_mb=min(spec.disk_mb, max(1, total.disk_mb)),
    )
    files = panda.listing(dictionary.get("outFiles"))
    return PandaAttempt(
        job,
        spec,
        own=own,
        log=panda.text(dictionary.get("logFile")),
        guid=panda.text(dictionary.get("logGUID")),
        endpoints=dict(zip(files, panda.listing(dictionary.get("ddmEndPointOut")), strict=False)),
        mark=mark,
    )


def _foreign(dictionary: Mapping[str, Any], job: Id) -> JobSpec:
    transformation = panda.text(dictionary.get("transformation"))
    arguments = str(dictionary.get("jobPars", ""))
    if not transformation:
        raise ValueError("it has no transformation")
    log = panda.text(dictionary.get("logFile"))
    spare = panda.listing(dictionary.get("allowNoOutput"))
    inputs = _inputs(dictionary)
    command = f"{transformation} {arguments}"
    if _URL.fullmatch(transformation):
        name = _named(transformation)
        inputs.append({"name": name, "url": transformation})
        command = f"chmod +x {name} && ./{name} {arguments}"
    fields: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9_.:+@=-]", "_", str(dictionary.get("jobName") or ""))[
            :200
        ].lstrip(".-:+@=")
        or f"panda-{job[0]}",
        "command": command,
        "inputs": inputs,
        "outputs": [
            {"name": name, "optional": name in spare}
            for name in panda.listing(dictionary.get("outFiles"))
            if name != log
        ],
        "cores": max(1, panda.number(dictionary.get("coreCount")) or 1),
        "container": panda.text(dictionary.get("container_name")),
        # PanDA's payloads expect it.
        "network": True,
        "environment": {"PandaID": str(job[0]), "PANDAID": str(job[0])},
    }
    for name, key in (
        ("memory_mb", "minRamCount"),
        ("disk_mb", "maxDiskCount"),
        ("walltime_s", "maxWalltime"),
    ):
        if (value := panda.number(dictionary.get(key)) or 0) > 0:
            fields[name] = value
    if str(dictionary.get("loopingCheck", "")).lower() == "false":
        fields["looping_s"] = 0
    try:
        return msgspec.convert(fields, JobSpec)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _named(url: str) -> str:
    """The name of the file at a URL. Raises ValueError."""
    try:
        return Url.parse(url).name
    except AilurusError as error:
        raise ValueError(error.message) from None


def _inputs(dictionary: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = panda.listing(dictionary.get("inFiles"))
    columns = {
        key: [*panda.listing(dictionary.get(key)), *[""] * len(names)]
        for key in ("scopeIn", "fsize", "checksum")
    }
    found: list[dict[str, Any]] = []
    for nr, name in enumerate(names):
        whole = _URL.fullmatch(name)
        file: dict[str, Any] = {
            "name": _named(name) if whole else name.rsplit("/", 1)[-1],
            "url": name if whole else Did(columns["scopeIn"][nr], name).url().text,
        }
        # 0: the server does not know it.
        if size := panda.number(columns["fsize"][nr]):
            file["size"] = size
        kind, _, digest = columns["checksum"][nr].lower().partition(":")
        if kind == "ad" and re.fullmatch("[0-9a-f]{1,8}", digest):
            file["adler32"] = digest.rjust(8, "0")
        elif kind in ("md", "md5") and re.fullmatch("[0-9a-f]{32}", digest):
            file["md5"] = digest
        found.append(file)
    return found
