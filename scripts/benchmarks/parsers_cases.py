"""The parsers that `scripts/bench parsers` drives: whatever one is given, it answers, or refuses
with the error that its callers know."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from ailurus.protocol import panda_architecture, units
from ailurus.protocol.api import ROUTES
from ailurus.protocol.errors import AilurusError
from dispatcher.cli.jobfile import JobFiles
from dispatcher.door import http
from dispatcher.panda import bodies
from dispatcher.panda.bodies import BadBody
from dispatcher.refusal import Rejected
from harvester_edge.lint import faults
from harvester_edge.ports import Tag
from plugins.batch import commands, htcondor, pbs, slurm

NOWHERE = Path("/nowhere")
RECORDED = Path(__file__).parents[2] / "tests/recorded"
SITES = Path(__file__).parents[2] / "site_configs"


class Case(Struct, frozen=True):
    """A parser, what it may raise, and texts to begin with."""

    parse: Callable[[str], object]
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], list[str]]


def _recorded(pattern: str) -> Callable[[], list[str]]:
    return lambda: [path.read_text() for path in sorted(RECORDED.glob(pattern))]


def _written(name: str, read: Callable[[Path], object]) -> Callable[[str], object]:
    """A parser of files."""
    path = Path(tempfile.gettempdir()) / f"ailurus-parser-{os.getpid()}-{name}"

    def parse(text: str) -> object:
        path.write_text(text, errors="surrogatepass")
        try:
            return read(path)
        finally:
            path.unlink()

    return parse


def _body(kind: str) -> Callable[[str], object]:
    headers = {b"content-type": kind.encode()}
    return lambda text: bodies.parameters(
        "POST", headers, b"", text.encode("utf-8", "surrogatepass")
    )


_WIRE = [
    msgspec.json.Decoder(kind) for kind in {route.ask for route in ROUTES if route.method == "POST"}
]


def _wire(text: str) -> None:
    """The body of each route: one that is refused does not keep it from the others."""
    data = text.encode("utf-8", "surrogatepass")
    for decoder in _WIRE:
        with suppress(Rejected):
            http.decode(decoder.decode, data)


_SIZES = lambda: ["4GiB", "500M", "1.5T", "12"]  # noqa: E731 -- one of many seeds
_FORM = "a=1&b=NULL&a=2&outputs=%7B%7D"
_PARTS = '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n'
_SUBMIT = '{"request_id": "r", "jobs": [{"name": "j", "command": "true", "cores": 2}]}'
CASES: dict[str, Case] = {
    "legacy form": Case(_body("application/x-www-form-urlencoded"), (BadBody, Rejected), lambda: [_FORM]),
    "legacy and v1 JSON": Case(_body("application/json"), (BadBody, Rejected), lambda: ['{"jobId": 1, "x": [null]}']),
    "multipart": Case(_body("multipart/form-data; boundary=b"), (BadBody, Rejected), lambda: [_PARTS]),
    "squeue": Case(lambda text: list(slurm.parse_squeue(text, "a1b2", NOWHERE)), (AilurusError,), _recorded("slurm/squeue*.out")),
    "sacct": Case(lambda text: list(slurm.parse_sacct(text, Tag("a1b2"), NOWHERE)), (AilurusError,), _recorded("slurm/sacct*.out")),
    "condor_q": Case(lambda text: htcondor.parse(text, NOWHERE), (AilurusError,), _recorded("htcondor/*.json.out")),
    "qstat": Case(lambda text: list(pbs.parse(text, "a1b2", NOWHERE)), (AilurusError,), _recorded("pbs/*.json.out")),
    "array tasks": Case(commands.tasks, (AilurusError,), lambda: ["1-3,7", "[1-10%2]", "1,2,3-5:2"]),
    "size": Case(units.size_bytes, (AilurusError,), _SIZES),
    "duration": Case(units.duration_s, (AilurusError,), lambda: ["90m", "1-12:00:00", "12:00:00", "1.5h"]),
    "site file": Case(_written("site.yaml", faults), (AilurusError,), lambda: [path.read_text() for path in sorted(SITES.glob("*.yaml"))]),
    "job file": Case(_written("jobs.yaml", lambda path: JobFiles([str(path)])), (AilurusError,), lambda: ["name: j\ncommand: true\nmemory: 4GiB\nsweep: {i: [1, 2]}\n"]),
    "architecture": Case(panda_architecture.read, (AilurusError,), lambda: ["x86_64-el9-gcc13-opt#(x86_64-*-avx2|aarch64)&nvidia:model=.*(A100|H100).*:vram>=40960:cuda>=12.0", '{"cpu_specs": [{"arch": "x86_64", "instr": "avx2"}], "gpu_spec": {"vram": ">=1"}}']),
    "wire JSON": Case(_wire, (), lambda: [_SUBMIT]),
}  # fmt: skip
