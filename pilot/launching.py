"""From a job's launcher to its processes: the plan on disk, and the remote shell on its nodes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import plugins
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.launchers import SINGLE
from ailurus.protocol.program import interpreter
from pilot.blame import OSErrorsOn, Target
from pilot.node.shares import Slot
from pilot.node_ports import DoorHandle, Exit, JobNode, Launcher, Node, Plan, Program
from pilot.payload import Part, Payload, PayloadProcess
from pilot.ports import PATH, JobError
from pilot.rsh.exchange import Command, Exchange, Said, Sink
from pilot.workdir import LAUNCH, Workdir

RSH = "pilot-rsh"
DOOR = ".ailurus-"
"""Of a node, in the payload's /tmp there, which may be the same on all."""
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_SETS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def launcher_of(spec: JobSpec) -> Launcher:
    """What starts a job. Raises JobError for one that is not here, or with other options."""
    try:
        kind = plugins.load("launch", spec.launcher)
    except AilurusError as error:
        raise JobError(
            Code.NOT_IMPLEMENTED, error.message, field="launcher", remedy=error.remedy
        ) from None
    try:
        options = msgspec.convert(spec.launcher_options, kind.Options)
    except msgspec.ValidationError as error:
        raise JobError(
            Code.PAYLOAD_FAILED,
            f"{spec.launcher}: {error}",
            field="launcher_options",
            remedy="see docs/parallel.md",
        ) from None
    made: Launcher = kind(options)
    return made


def planned(
    spec: JobSpec, name: str, argv: Sequence[str], nodes: Sequence[JobNode], work: Workdir
) -> Plan:
    """The plan of the attempt `name`, whose files are then in its directory. Raises JobError."""
    if spec.launcher == SINGLE:
        return Plan(argv=argv)
    directory = work.directory / LAUNCH
    plan = launcher_of(spec).plan(
        Program(
            argv=argv,
            executable=executable(spec),
            nodes=nodes,
            directory=str(directory),
            mark=name,
        )
    )
    shell = Path(__file__).with_name("rsh").joinpath(RSH).read_text("utf-8")
    with OSErrorsOn(Target.NODE, "cannot write what starts the job"):
        for file, text in {**plan.files, RSH: shell}.items():
            with os.fdopen(work.create(f"{LAUNCH}/{file}", 0o700), "w", encoding="utf-8") as to:
                to.write(text)
    return plan


def executable(spec: JobSpec) -> str:
    """The program that a job's command or script is, as far as that can be told from its text;
    empty: only its shell knows."""
    if spec.script:
        words = " ".join(interpreter(spec.script)).split()
        return words[1] if len(words) > 1 and words[0].endswith("/env") else "".join(words[:1])
    try:
        words = shlex.split(spec.command)
    except ValueError:
        return ""
    found = next((word for word in words if not _SETS.match(word) and word != "exec"), "")
    return found if _PLAIN.fullmatch(found) else ""


def job_node(slot: Slot, node: Node, *, alone: bool) -> JobNode:
    """A node of a job as launchers see it. `alone`: it is the job's only one, whose sandbox is not
    called as the node is, and has no way to its address."""
    return JobNode(
        name="" if alone else node.name,
        address="" if alone else node.address,
        cores=slot.need.cores,
        memory_mb=slot.need.memory_mb,
        gpus=len(slot.gpus),
    )


def variables(plan: Plan, work: Workdir, node: str, tmp: str) -> Mapping[str, str]:
    """What a payload's environment has on `node` by its launcher; "": the job has no other. `tmp`:
    where it finds its /tmp there."""
    directory = work.directory / LAUNCH
    return {
        **plan.environment,
        "PATH": f"{PATH}:{directory}",
        **({"AILURUS_RSH": f"{tmp}/{DOOR}{node}"} if node else {}),
        "AILURUS_PILOT_RSH": str(directory / RSH),
    }


class RemoteShells:
    """`pilot-rsh` on all nodes of a payload, until the `with` is left."""

    def __init__(self, payload: Payload, parts: Sequence[Part]) -> None:
        self._payload, self._parts = payload, parts
        self._exchange = Exchange([part.node.name for part in parts], self._start)
        self._doors: dict[str, DoorHandle] = {}

    def __enter__(self) -> Self:
        """Raises JobError, and then no door is open."""
        try:
            for part in self._parts:
                self.gain(part)
        except JobError:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def gain(self, part: Part) -> None:
        """Open one on one more node. Raises JobError."""
        self._doors[part.node.name] = self._opened(part)
        self._exchange.come(part.node.name)

    def lose(self, node: str) -> None:
        """A node is lost."""
        self._exchange.go(node)
        if (door := self._doors.pop(node, None)) is not None:
            door.close()

    def _opened(self, part: Part) -> DoorHandle:
        # Nothing is said before the payload runs, and so before this returns.
        doors: list[DoorHandle] = []
        name = part.node.name

        def heard(said: Said) -> None:
            self._exchange.said(name, said, doors[0].answer)

        doors.append(part.node.door(f"{part.box.tmp}/{DOOR}{name}", heard))
        return doors[0]

    def _close(self) -> None:
        self._exchange.close()
        for door in self._doors.values():
            door.close()

    def _start(
        self, node: str, command: bytes, out: Sink, err: Sink, done: Callable[[int, str], None]
    ) -> Command:
        try:
            text = command.decode()
        except UnicodeDecodeError:
            raise JobError(Code.PAYLOAD_FAILED, "the command is not UTF-8") from None

        def written(stream: int, data: bytes) -> None:
            (out if stream == 1 else err)(data)

        def ended(end: Exit) -> None:
            code, number = end.process.exit_code, end.process.errno
            done(code if code >= 0 else 128 - code, f"{node}: {os.strerror(number)}" * bool(number))

        argv = ["/bin/sh", "-c", text]
        return _Started(self._payload.start_on(node, argv, written, ended))


class _Started:
    """A command of `pilot-rsh` as the exchange sees it."""

    def __init__(self, process: PayloadProcess) -> None:
        self._process = process

    def signal(self, number: int) -> None:
        self._process.signal(number)

    def taken(self, stream: int, count: int) -> None:
        self._process.credit(count)
