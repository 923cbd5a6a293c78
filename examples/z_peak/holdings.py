"""What Rucio has of the demo in the end: data sets, rules and replicas, held against what pilots
reported and what lies in storage."""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs import terminal
from rich.table import Table
from services import SCRIPTS, ask_fixture
from workflow import INPUT, NTUPLES, RESULTS, SCOPE, SIMULATED

from ailurus import Client
from ailurus.protocol.did import Did
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.messages import FileRecord
from ailurus.protocol.states import RegistrationState
from ailurus.protocol.url import Url

DATASETS = (INPUT, *(f"{SCOPE}:{name}" for name in (SIMULATED, NTUPLES, RESULTS)))
PATIENCE_S = 60.0
"""How long it may take until outputs are registered, and data sets closed."""
SHOWN = 16
"""Files of the table."""


def ask(place: Path, account: str, *words: object) -> str:
    """What `catalogue.py` prints, as an account of Rucio. Raises AilurusError."""
    program = ("python", SCRIPTS / "catalogue.py")
    return ask_fixture(place, "rucio", "as", account, *program, *words)


def fetch(place: Path, client: Client, job_id: int) -> None:
    """Download the outputs of a job beside the workflow, once Rucio knows them. Raises
    AilurusError."""
    files = registered(client, job_id)
    names = {did_of(file): file.name for file in files}
    ask(place, "alice", "get", place, *names)
    for did, name in names.items():
        (place / did.name).rename(place / name)


def registered(client: Client, job_id: int) -> Sequence[FileRecord]:
    """The outputs of a job. Raises AilurusError if the catalogue does not take one."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        files = client.show(job_id).files
        left = [file for file in files if file.registration != RegistrationState.DONE]
        if not left:
            return files
        if left[0].registration == RegistrationState.REFUSED or time.monotonic() > deadline:
            reason = left[0].reason or f"not in Rucio after {PATIENCE_S:.0f} s"
            raise AilurusError(reason, field=left[0].name, remedy=left[0].remedy)
        time.sleep(0.2)


def did_of(file: FileRecord) -> Did:
    return Did.of_url(Url.parse(file.url))


def show(place: Path, facts: Mapping[str, Any], client: Client, ids: Sequence[int]) -> int:
    """Print what Rucio knows; 1 if any of it is not as it should be. Raises AilurusError."""
    known = json.loads(ask(place, "alice", "tell", PATIENCE_S, *DATASETS))
    traces = list(traces_of(Path(facts["traces"])))
    reported = {
        str(did_of(file)): (file.size, file.adler32)
        for job_id in ids
        for file in client.show(job_id).files
    }
    (place / "rucio-holdings.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    terminal.print(table_of_datasets(known), table_of_replicas(known))
    terminal.print(
        f"Rucio's traces of the pilots: {moved(traces)}", highlight=False, soft_wrap=True
    )
    faults = list(differences(known, reported, Path(facts["xrootd"]["store"]).parent))
    for fault in faults:
        terminal.print(fault, style="red", markup=False)
    if not faults:
        terminal.print(
            "sizes and checksums are the same in pilots' reports, in Rucio and in storage"
        )
    return 1 if faults else 0


def table_of_datasets(known: Mapping[str, Any]) -> Table:
    table = Table(title="data sets", title_justify="left")
    for column in ("data set", "is", "files", "bytes", "rules"):
        table.add_column(column, justify="right" if column in ("files", "bytes") else "left")
    for dataset in known["datasets"]:
        of_files = {file["did"] for file in dataset["files"]} | {dataset["did"]}
        rules = Counter(
            f"{rule['state']} at {rule['where']}"
            for rule in known["rules"]
            if rule["did"] in of_files
        )
        table.add_row(
            dataset["did"],
            "open" if dataset["open"] else "closed",
            str(len(dataset["files"])),
            f"{sum(file['size'] for file in dataset['files']):,}",
            ", ".join(f"{number} {state}" for state, number in rules.items()),
        )
    return table


def table_of_replicas(known: Mapping[str, Any]) -> Table:
    table = Table(title="replicas", title_justify="left")
    for column in ("file", "bytes", "adler32", "at", "kept until"):
        table.add_column(column, justify="right" if column == "bytes" else "left", overflow="fold")
    until = {rule["did"]: rule["until"][:10] for rule in known["rules"]}
    files = [(file, dataset) for dataset in known["datasets"] for file in dataset["files"]]
    for file, dataset in files[:SHOWN]:
        kept = until.get(file["did"], until.get(dataset["did"], "not kept"))
        at = ", ".join(file["replicas"].values())
        table.add_row(file["did"], f"{file['size']:,}", file["adler32"], at, kept or "for good")
    if len(files) > SHOWN:
        table.add_row(f"and {len(files) - SHOWN} more")
    return table


def traces_of(path: Path) -> Iterator[dict[str, Any]]:
    """What pilots told Rucio of their transfers."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("{") and (trace := json.loads(line))["account"] == "pilot":
            yield trace


def moved(traces: Sequence[Mapping[str, Any]]) -> str:
    """How many files went which way."""
    done = [trace for trace in traces if trace["clientState"] == "DONE"]
    ways = {"download": "read", "upload": "written"}
    counted = Counter((ways[trace["eventType"]], trace["protocol"]) for trace in done)
    return ", ".join(
        f"{number} {way} by {scheme}" for (way, scheme), number in sorted(counted.items())
    )


def differences(
    known: Mapping[str, Any], reported: Mapping[str, tuple[int, str]], storage: Path
) -> Iterator[str]:
    """What is not as it should be. `storage`: the directory that the servers' URLs begin at."""
    yield from (f"{one['did']} is still open" for one in known["datasets"] if one["open"])
    for rule in known["rules"]:
        if rule["state"] != "OK":
            yield f"the rule for {rule['did']} at {rule['where']} is {rule['state']}"
    files = {file["did"]: file for dataset in known["datasets"] for file in dataset["files"]}
    yield from (f"{did} is in no data set" for did in reported if did not in files)
    for did, file in files.items():
        there = (file["size"], file["adler32"])
        if reported.get(did, there) != there:
            yield f"{did}: its pilot reported {reported[did]}, Rucio has {there}"
        if not file["replicas"]:
            yield f"{did} has no replica"
        for url in file["replicas"]:
            path = storage / urlsplit(url).path.lstrip("/")
            content = path.read_bytes() if path.exists() else b""
            if (len(content), f"{zlib.adler32(content):08x}") != there:
                yield f"{url} is not what Rucio has"
