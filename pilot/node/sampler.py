"""The sampler of a node: one pass over /proc for all of its payloads. It judges nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from pilot.clock import SYSTEM, Clock
from pilot.node.gpu_loads import GpuLoads
from pilot.node.readings import ProcReadings, Readings
from pilot.process import proc
from pilot.process.usage import Disk, Nameless, NodeUse
from pilot.samples import LocalFiles, Sample, Sampled

# The share of one core for samples; disks have as much again.
SHARE = 0.0025
SHORTEST_S, PSS_EVERY_S, DISK_EVERY_S = 1.0, 60.0, 5.0
# How many entries are looked at in one go when a payload has ended.
FINAL_ENTRIES = 50_000
# Files without a name are searched for when the node has so much more in memory or on disk than at
# the last search: they cannot have grown by more. A node where others free as much is searched
# every few minutes.
GROWN_MEMORY_KB, GROWN_DISK_KB, SEARCH_EVERY_S = 4096, 65_536, 60.0


def rest_s(cost_s: float) -> float:
    """How long to rest after a pass that took `cost_s` of CPU time, seconds."""
    return max(SHORTEST_S, cost_s / SHARE)


def disk_rest_s(cost_s: float, payloads: int) -> float:
    """How long to let the files of one of so many payloads rest after `cost_s` of CPU time."""
    return max(DISK_EVERY_S, payloads * cost_s / SHARE)


class Held(Struct, frozen=True, eq=False):
    """A process of a payload that may have only a part of the payload's memory."""

    pid: Callable[[], int | None]
    """Its process id while it runs."""
    memory_kb: int
    over: Callable[[int], None]
    """Told of the kB that it has, at each look at which that is more."""


class Watched:
    """What the sampler remembers of one payload."""

    def __init__(self, key: str, sampled: Sampled, now: float) -> None:
        self.key, self.sampled = key, sampled
        self.device = _device(sampled.directory)
        # What the node started; each tells its process id while it runs.
        self.roots: dict[Hashable, Callable[[], int | None]] = {}
        self.held: dict[Hashable, Held] = {}
        # Of those that have ended.
        self.ended_cpu_s = 0.0
        self.nameless = Nameless(0, 0)
        # The least since the last search for files without a name.
        self.node = NodeUse(0, 0)
        self.nameless_next, self.search_by, self.disk_next = now, now, now + 2.0
        self.pss_next = now + PSS_EVERY_S / 2
        self.disk = Disk([Path(path) for path in sampled.local]) if sampled.local else None
        self.walks = 0
        self.gpu_s, self.looked_at = 0.0, now

    def local(self) -> LocalFiles | None:
        """What its node-local directories have, as far as they have been read."""
        if self.disk is None:
            return None
        return _files(self.disk, self.walks)


class Sampler:
    """Looks at the payloads of this node. Any thread may add and remove one, one thread looks."""

    def __init__(
        self,
        clock: Clock = SYSTEM,
        readings: Readings | None = None,
        gpus: GpuLoads | None = None,
    ) -> None:
        self._clock = clock
        self._gpus = gpus or GpuLoads()
        self._readings: Readings = readings or ProcReadings()
        self._watched: dict[str, Watched] = {}

    def watch(self, key: str, sampled: Sampled) -> None:
        """Measure a payload from the next look on."""
        self._watched[key] = Watched(key, sampled, self._clock.monotonic())

    def started(self, key: str, process: Hashable, pid: Callable[[], int | None]) -> None:
        """Count a process that the node started for a payload, if that is watched, and all below
        it. `pid`: its process id while it runs."""
        if (one := self._watched.get(key)) is not None:
            one.roots[process] = pid

    def ended(self, key: str, process: Hashable, cpu_s: float) -> None:
        """Such a process has ended, after so much CPU time of its own and those below it."""
        if (one := self._watched.get(key)) is not None:
            one.roots.pop(process, None)
            one.ended_cpu_s += cpu_s

    def hold(self, key: str, process: Hashable, held: Held) -> None:
        """Hold a process of a payload, which is watched, to memory of its own."""
        if (one := self._watched.get(key)) is not None:
            one.held[process] = held

    def let_go(self, key: str, process: Hashable) -> None:
        """Such a process has ended."""
        if (one := self._watched.get(key)) is not None:
            one.held.pop(process, None)

    def forget(self, key: str) -> LocalFiles | None:
        """Measure a payload no more; what it left in its node-local directories, however short it
        ran."""
        if (one := self._watched.pop(key, None)) is None:
            return None
        shared = {gpu for other in list(self._watched.values()) for gpu in other.sampled.gpus}
        self._gpus.forget([gpu for gpu in one.sampled.gpus if gpu not in shared])
        if one.disk is None:
            return None
        disk = one.disk.anew()
        whole = disk.step(FINAL_ENTRIES)
        return _files(disk, one.walks + whole)

    def look(self, now: float) -> list[Sample]:
        """A sample of each payload of which a process runs that the node started."""
        running = [
            (one, pids)
            for one in list(self._watched.values())
            if (pids := [pid for root in list(one.roots.values()) if (pid := root()) is not None])
        ]
        if not running:
            return []
        processes = self._readings.scan()
        # Once for each file system: payloads share one.
        nodes: dict[int, NodeUse] = {}
        samples = []
        held = _held_of(one for one, _ in running)
        roots = [pid for _, pids in running for pid in pids]
        trees = proc.trees(processes, [*roots, *(pid for pid, _ in held)])
        for one, pids in running:
            tree = trees[pids[0]]
            for pid in pids[1:]:
                tree += trees[pid]
            if (node := nodes.get(one.device)) is None:
                node = nodes[one.device] = self._readings.node_use(one.sampled.directory)
            if one.disk is not None and now >= one.disk_next:
                self._walk(one, one.disk, now, len(running))
            samples.append(self._sample(one, processes, tree, now, node))
        for pid, process in held:
            self._hold(process, processes, trees[pid])
        return samples

    def _hold(self, held: Held, processes: Mapping[int, proc.Process], tree: list[int]) -> None:
        """Only what is mapped counts: files in memory may be anybody's in the payload."""
        used = sum(processes[pid].rss_kb for pid in tree)
        if used > held.memory_kb and (mapped := self._readings.pss_kb(tree)) is not None:
            used = mapped.all
        if used > held.memory_kb:
            held.over(used)

    def _sample(
        self,
        one: Watched,
        processes: Mapping[int, proc.Process],
        tree: list[int],
        now: float,
        node: NodeUse,
    ) -> Sample:
        mapped = sum(processes[pid].rss_kb for pid in tree)
        files = self._files_in_memory(one, tree, now, node)
        gpu_memory_mb = self._gpu_memory_mb(one, now)
        # Like CPU time, the I/O of a process passes to the parent that waits for it, so the
        # processes that exist have all of it. Parents are read before their children: a child that
        # is waited for meanwhile is missed once, and never counted twice.
        io = [found for pid in tree if (found := self._readings.io_of(pid)) is not None]
        return Sample(
            key=one.key,
            cpu_s=one.ended_cpu_s + sum(processes[pid].cpu_s for pid in tree),
            rss_kb=mapped + (max(0, files - self._readings.rss_shmem_kb(tree)) if files else 0),
            used_kb=self._used(one, tree, mapped + files, files, now),
            files_kb=files,
            read_bytes=sum(found.read for found in io),
            write_bytes=sum(found.written for found in io),
            moved_bytes=sum(found.moved for found in io),
            processes=len(tree),
            nameless_bytes=one.nameless.disk,
            local=one.local(),
            gpu_memory_mb=gpu_memory_mb,
            gpu_s=round(one.gpu_s, 3),
        )

    def _gpu_memory_mb(self, one: Watched, now: float) -> int:
        """Of the payload's GPUs, whose work is added up."""
        for_s, one.looked_at = now - one.looked_at, now
        if not one.sampled.gpus or (load := self._gpus.of(one.sampled.gpus, now)) is None:
            return 0
        one.gpu_s += load.busy * for_s
        return load.memory_mb

    def _files_in_memory(self, one: Watched, tree: list[int], now: float, node: NodeUse) -> int:
        """The kB of files that a payload keeps in memory: in its /dev/shm, or without a name. A
        payload that has files without a name is searched more often, as they may go."""
        grown = (
            node.memory_kb > one.node.memory_kb + GROWN_MEMORY_KB
            or node.disk_kb > one.node.disk_kb + GROWN_DISK_KB
        )
        if now >= one.nameless_next and (grown or now >= one.search_by):
            used = self._clock.cpu_s()
            one.nameless = self._readings.nameless(tree, one.device)
            one.node = node
            has = one.nameless.memory or one.nameless.disk
            one.search_by = now + (DISK_EVERY_S if has else SEARCH_EVERY_S)
            one.nameless_next = now + (self._clock.cpu_s() - used) / SHARE
        else:
            one.node = one.node.least(node)
        inside = self._readings.shared_memory_kb(tree[1]) if len(tree) > 1 else 0
        return inside + one.nameless.memory // 1024

    def _used(self, one: Watched, tree: list[int], most: int, files: int, now: float) -> int | None:
        """The kB of memory with shared pages shared out, if that is due or `most` is above the
        limit. `most` counts shared pages once a process, and files in memory apart from what is
        mapped of them: so before it counts against anybody, shares decide."""
        if most <= one.sampled.memory_kb and now < one.pss_next:
            return None
        one.pss_next = now + PSS_EVERY_S
        if (mapped := self._readings.pss_kb(tree)) is None:
            return most
        if not files:
            return mapped.all
        return mapped.all + max(0, files - (mapped.shmem or self._readings.rss_shmem_kb(tree)))

    def _walk(self, one: Watched, disk: Disk, now: float, payloads: int) -> None:
        used = self._clock.cpu_s()
        one.walks += disk.step()
        one.disk_next = now + disk_rest_s(self._clock.cpu_s() - used, payloads)


def _held_of(watched: Iterable[Watched]) -> list[tuple[int, Held]]:
    """Those that run, by their process ids."""
    held = (one for payload in watched for one in list(payload.held.values()))
    return [(pid, one) for one in held if (pid := one.pid()) is not None]


def _device(directory: str) -> int:
    """The file system of a directory; -1: it is gone."""
    try:
        return os.lstat(directory).st_dev
    except OSError:
        return -1


def _files(disk: Disk, walks: int) -> LocalFiles:
    return LocalFiles(used_bytes=disk.used, mark=disk.mark, walks=walks, too_deep=disk.too_deep)
