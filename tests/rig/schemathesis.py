"""schemathesis over the description of the API that a dispatcher serves."""

from __future__ import annotations

import subprocess

from tests.rig.programs import BIN, Rig

LONG_POLLS = ("events", "log", "tail", "wait", "stream")  # these wait as long as they are told to
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)


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
