"""This machine as a node: its containers, its guardian."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.blame import OSErrorsOn, Target
from pilot.node.each import EachItsOwn
from pilot.node.outputs import Outputs
from pilot.node.own_memory import HeldProcess, OwnMemory
from pilot.node.sampler import Sampler
from pilot.node.standing import IDLE, LocalStanding
from pilot.node_ports import DoorHandle, Exit, Explanation, Order, Output, Standing
from pilot.ports import (
    Check,
    Container,
    Direct,
    Image,
    JobError,
    ProcessEnd,
    ProcessSpec,
    Runtime,
    Spawner,
)
from pilot.process import cgroup, proc
from pilot.process.cgroup import Group, Groups
from pilot.process.oom import OomKills
from pilot.samples import LocalFiles, Sample, Sampled
from pilot.site import Site

if TYPE_CHECKING:
    from pilot.node.streams import Channel, Streams
    from pilot.process.spawner import GuardedSpawner
    from pilot.rsh.doors import Doors


class LocalNode:
    """Starts processes through the guardian of this machine."""

    def __init__(
        self,
        container: Container,
        spawner: Spawner,
        sampler: Sampler | None = None,
        groups: Groups | None = None,
        *,
        name: str = "",
        address: str = "",
        streams: Streams | None = None,
        doors: Doors | None = None,
    ) -> None:
        self.name, self.address, self.container = name, address, container
        self._spawner, self._sampler = spawner, sampler or Sampler()
        self._streams, self._doors = streams, doors
        self._channels: dict[int, Channel] = {}
        self._groups = groups
        # By the names of payloads.
        self._grouped: dict[str, Group] = {}
        self._group_lock = threading.Lock()

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        return self.container.prepare(spec, check)

    def tmp(self, name: str, shared: str) -> str:
        return shared

    def start(
        self, order: Order, done: Callable[[Exit], None], output: Output | None = None
    ) -> int:
        if output is not None:
            return self._streamed(order, done, output)
        container = self.container.of(order.spec)
        group = self._group(order) if container.private else None
        held = self._held(order, group) if order.memory_mb else None
        process = replace(
            started_as(container.wrap(order.argv, order.box), order.name),
            stdout=order.stdout,
            stderr=order.stderr,
            cpus=order.cpus,
            depth=container.depth,
            status_fd=container.status_fd,
            cgroup=held.cgroup if held and held.cgroup else group.entrance if group else (),
        )
        kills = OomKills(group)
        mark = object()

        def ended(end: ProcessEnd) -> None:
            self._sampler.ended(order.name, mark, end.cpu_s)
            # Its cgroup is gone when somebody asks for an explanation.
            found = kills.since() if group and end.exit_code else None
            explain = partial(explained, container, order.box.image, end)
            memory = None if held is None else held.ended(end)
            done(Exit(end, lambda: explain(found or kills.since()), memory))

        key = self._spawner.spawn(process, ended)
        if held is not None:
            held.started(key)
        self._sampler.started(order.name, mark, lambda: self._spawner.pid(key))
        return key

    def stand(self, order: Order, check: Check) -> Standing:
        container = self.container.of(order.spec)
        if container.within((), order.box) is None:
            return EachItsOwn(self, order)
        process = container.wrap(IDLE, order.box)
        if isinstance(process, Direct):
            outputs = Outputs(order.box.own, order.box.own, self.name)
            return self._standing(container, order, outputs, None)
        tmp = order.box.tmp
        outputs = Outputs(container.tmp(tmp), tmp, self.name)
        group = self._group(order) if container.private else None
        entrance = group.entrance if group else ()
        standing = self._standing(container, order, outputs, group)
        standing.stand(
            replace(
                started_as(process, order.name),
                stderr=order.stderr,
                depth=container.depth,
                status_fd=container.status_fd,
                cgroup=entrance,
            ),
            check,
        )
        return standing

    def _standing(
        self, container: Container, order: Order, outputs: Outputs, group: Group | None
    ) -> LocalStanding:
        memory = OwnMemory(order.name, self._spawner, self._sampler, group)
        entrance = group.entrance if group else ()
        return LocalStanding(
            container, order, self._spawner, self._sampler, outputs, memory, cgroup=entrance
        )

    def _held(self, order: Order, group: Group | None) -> HeldProcess:
        memory = OwnMemory(order.name, self._spawner, self._sampler, group)
        return memory.hold(order.box.environment["AILURUS_ATTEMPT"], order.memory_mb)

    def _streamed(self, order: Order, done: Callable[[Exit], None], output: Output) -> int:
        if self._streams is None:
            raise JobError(Code.INTERNAL, "this node streams no output")
        with OSErrorsOn(Target.NODE, "cannot make the streams of a process"):
            channel = self._streams.open(output)
        named = replace(order, stdout=channel.paths[1], stderr=channel.paths[2])
        told = threading.Event()

        def ended(exit_: Exit) -> None:
            channel.finish(lambda: all_told(exit_))

        def all_told(exit_: Exit) -> None:
            told.set()
            self._channels.pop(exit_.process.key, None)
            done(exit_)

        try:
            key = self.start(named, ended)
        except JobError:
            channel.finish(lambda: None)
            raise
        self._channels[key] = channel
        if told.is_set():
            self._channels.pop(key, None)
        return key

    def close(self) -> None:
        """Leave nothing; no payload runs any more."""
        if self._groups is not None:
            self._groups.close()

    def credit(self, key: int, count: int) -> None:
        if (channel := self._channels.get(key)) is not None:
            channel.give(count)

    def door(self, directory: str, tell: Callable[[Any], None]) -> DoorHandle:
        if self._doors is None:
            raise JobError(Code.INTERNAL, "this node has no doors")
        with OSErrorsOn(Target.NODE, "cannot make the door of a payload"):
            return self._doors.open(Path(directory), tell)

    def clear(self, name: str) -> None:
        """The attempt's directory has all of it."""

    def signal(self, key: int, number: int) -> None:
        self._spawner.signal(key, number)

    def pid(self, key: int) -> int | None:
        return self._spawner.pid(key)

    def watch(self, name: str, sampled: Sampled) -> None:
        self._sampler.watch(name, sampled)

    def forget(self, name: str) -> LocalFiles | None:
        if self._groups is not None and (group := self._grouped.pop(name, None)) is not None:
            self._groups.remove(group)
        return self._sampler.forget(name)

    def samples(self, now: float) -> Sequence[Sample]:
        return self._sampler.look(now)

    def _group(self, order: Order) -> Group | None:
        """The cgroup of a payload, made with its first process."""
        if self._groups is None:
            return None
        with self._group_lock:
            if (found := self._grouped.get(order.name)) is None:
                found = self._groups.group(
                    order.name,
                    order.spec.memory_mb * 1024,
                    divided=order.spec.payloads is not None,
                )
                if found is not None:
                    self._grouped[order.name] = found
            return found


def groups_of(site: Site, instance: str, spawner: GuardedSpawner) -> Groups | None:
    """The cgroups of payloads, where the site lets us make some. Payloads that can make mounts
    could reach their files."""
    if site.pilot.cgroups == "off" or site.container.user_namespaces:
        return None
    groups = cgroup.find(instance, partial(proc.kin, os.getpid()), asked=site.pilot.cgroups == "on")
    if groups is not None:
        spawner.cgroups(groups.directory, v2=groups.v2)
    if groups is None and site.pilot.cgroups == "on":
        Log("pilot.node").warning("cgroups_refused", remedy="delegate the pilot's own to its user")
    return groups


def started_as(process: Direct | Runtime, name: str) -> ProcessSpec:
    """The process to start for the attempt `name`. Only a payload that is itself that process gets
    what its user wrote; a container's program gets our environment and no directory of the job."""
    if isinstance(process, Direct):
        return ProcessSpec(
            argv=process.argv, environment=process.environment, directory=process.directory
        )
    return ProcessSpec(
        argv=process.argv,
        environment={**process.environment, "AILURUS_ATTEMPT": name},
        arguments=process.arguments,
        filter=process.filter,
        room=process.room,
    )


def explained(
    container: Container, image: Image | None, end: ProcessEnd, kills: tuple[int, str]
) -> Explanation:
    """What this machine knows of a process that failed here. It may try the container, which takes
    seconds."""
    error = None
    ran = container.ran(end.status)
    # 255 is how Apptainer says that it failed.
    killed = end.exit_code < 0 or 128 < end.exit_code <= 128 + signal.SIGRTMAX
    if not ran and not end.errno and not killed:
        error = container.blame(image, end.exit_code)
    number, where = kills
    return Explanation(
        runtime=container.private, ran=ran, error=error, oom_kills=number, where=where
    )
