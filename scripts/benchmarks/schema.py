"""schemathesis over the OpenAPI description, all phases, as an administrator, a worker and an edge (H1)."""

from __future__ import annotations

import re
import subprocess
from argparse import Namespace
from collections.abc import Iterator

from ailurus.protocol.api import Scope
from benchmarks.figure import Figure, figure
from benchmarks.fuzz import callers
from benchmarks.rig import BIN, Rig

LONG_POLLS = ("events", "log", "tail", "wait", "stream")  # these wait as long as they are told to
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


def run(args: Namespace) -> Iterator[Figure]:
    """Cases and failures of each role."""
    with Rig(serve=["--rate", "0"]) as rig:
        for role, tokens in callers(rig).items():
            if role not in (Scope.ADMIN, Scope.WORKER, Scope.EDGE):
                continue
            done = sent(rig, tokens[0], "--phases", "examples,coverage,fuzzing,stateful",
                        "--max-examples", "20", "--seed", args.seed)  # fmt: skip
            cases = re.search(r"(\d+) generated", done.stdout)
            note = "" if done.returncode == 0 else done.stdout[-3000:]
            yield figure(f"schemathesis: cases as {role}", int(cases[1]) if cases else 0)
            yield figure(f"schemathesis: exit as {role}", done.returncode, at_most=0, note=note)


def sent(rig: Rig, token: str, *options: object) -> subprocess.CompletedProcess[str]:
    """A run of schemathesis with that token."""
    command = [BIN / "schemathesis", "run", f"{rig.url}/api/ailurus/v1/openapi.json"]
    command += ["-H", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS)]
    command += ["--workers", "2", "--no-color", "--request-timeout", "20"]
    for name in ("sign_out", *LONG_POLLS):
        command += ["--exclude-operation-id", name]
    return subprocess.run(
        [*map(str, command), *map(str, options)],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=rig.directory,
    )
