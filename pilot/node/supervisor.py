"""The supervisor: one thread that judges all payloads, and stops those that pass a limit.

What payloads use is measured on their nodes, by samplers; files of the directory that a job's nodes
share are counted here. It looks as often as it can afford: a pass may take a four-hundredth of a
core, so few payloads are seen every second and a packed node every few. Deadlines are waited for,
not polled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol.errors import Code
from ailurus.protocol.messages.usage import MOST_NODES, NodeUsage
from pilot.attempt import Attempt
from pilot.clock import SYSTEM, Clock
from pilot.node.sampler import FINAL_ENTRIES, SHORTEST_S, disk_rest_s, rest_s
from pilot.node_ports import Sampling
from pilot.ports import JobError
from pilot.process.activity import Signs
from pilot.process.usage import ENTRY_BYTES, Disk, charge
from pilot.samples import LocalFiles, Sample, Sampled
from pilot.site import Bounds
from pilot.workdir import Workdir

SUSPENDED_S = 30.0
# What the directories take that the pilot makes.
BEFORE_BYTES = 2 * ENTRY_BYTES


class _Part:
    """What the supervisor remembers of a payload on one node."""

    def __init__(self, key: str) -> None:
        self.last = Sample(key=key)
        # What each was at most: the processes that had it may have ended, waited for by nobody.
        self.cpu_s, self.gpu_s, self.read_bytes, self.write_bytes = 0.0, 0.0, 0, 0
        self.max_rss_kb = 0
        # When it was measured last.
        self.used_kb = 0
        # Walks of its local directories when signs of life were looked for.
        self.walks = 0
        # Of the node's earlier lives: CPU and GPU seconds, bytes read and written.
        self._before: tuple[float, float, int, int] = (0.0, 0.0, 0, 0)

    def take(self, sample: Sample) -> None:
        cpu_s, gpu_s, read_bytes, write_bytes = self._before
        self.last = sample
        self.cpu_s = max(self.cpu_s, cpu_s + sample.cpu_s)
        self.gpu_s = max(self.gpu_s, gpu_s + sample.gpu_s)
        self.max_rss_kb = max(self.max_rss_kb, sample.rss_kb)
        self.read_bytes = max(self.read_bytes, read_bytes + sample.read_bytes)
        self.write_bytes = max(self.write_bytes, write_bytes + sample.write_bytes)
        if sample.used_kb is not None:
            self.used_kb = sample.used_kb

    def gone(self) -> None:
        """Nothing of the payload runs there any more."""
        self.last = Sample(key=self.last.key, local=self.last.local)
        self.used_kb = 0

    def lost(self) -> None:
        """The node is lost with all that it had; what was used there counts for ever."""
        self.last, self.used_kb, self.walks = Sample(key=self.last.key), 0, 0
        self._before = self.cpu_s, self.gpu_s, self.read_bytes, self.write_bytes

    @property
    def unread(self) -> bool:
        """Whether it has local directories that were not read since signs of life were looked
        for."""
        return self.last.local is not None and self.last.local.walks == self.walks

    @property
    def local_bytes(self) -> int:
        return 0 if self.last.local is None else self.last.local.used_bytes

    @property
    def too_deep(self) -> bool:
        return self.last.local is not None and self.last.local.too_deep


class _Watched:
    """What the supervisor remembers of one payload."""

    def __init__(self, attempt: Attempt, work: Workdir, now: float) -> None:
        self.attempt, self.work = attempt, work
        self.began = now
        # By the names of nodes.
        self.parts: dict[str, _Part] = {}
        self.nodes: dict[str, Sampling] = {}
        # Names of those that are lost; the lock guards their parts.
        self.lost: set[str] = set()
        self.lock = threading.Lock()
        self.disk = Disk((work.directory, work.tmp))
        # What was staged is there by now, and counts beside the disk that the job asked for.
        if attempt.spec.inputs or attempt.spec.script:
            self.disk.step(FINAL_ENTRIES)
        self.inputs_bytes = self.disk.used + BEFORE_BYTES
        self.disk_next = now + 2.0
        self.signs = Signs(now)

    def watch(self, node: Sampling, gpus: tuple[str, ...]) -> None:
        """Have it measured on a node, where it has these GPUs."""
        memory_kb, directory = self.attempt.spec.memory_mb * 1024, str(self.work.directory)
        self.lost.discard(node.name)
        self.nodes[node.name] = node
        node.watch(self.attempt.name, Sampled(memory_kb=memory_kb, directory=directory, gpus=gpus))

    def lose(self, node: str) -> None:
        """Count it no more on a node that is lost."""
        with self.lock:
            self.nodes.pop(node, None)
            self.lost.add(node)
            if (part := self.parts.get(node)) is not None:
                part.lost()

    def used_on_nodes(self) -> tuple[NodeUsage, ...]:
        """What was used on each, where the pilot has several."""
        with self.lock:
            return _each({name: part for name, part in self.parts.items() if name})

    def take(self, node: str, sample: Sample) -> _Part | None:
        """What was measured on a node; None: on one that is lost."""
        with self.lock:
            if node in self.lost:
                return None
            if (part := self.parts.get(node)) is None:
                part = self.parts[node] = _Part(sample.key)
            part.take(sample)
            return part

    def left(self, node: str, files: LocalFiles | None) -> None:
        """What the payload left in its local directories of a node, where it runs no more."""
        if files is not None:
            # A heartbeat may tell of all parts just now.
            with self.lock:
                part = self.parts.setdefault(node, _Part(self.attempt.name))
                part.last = Sample(key=self.attempt.name, local=files)

    @property
    def deadline(self) -> float:
        walltime = self.attempt.spec.walltime_s
        return float("inf") if walltime is None else self.began + walltime


class Supervisor:
    """Judges by what the samplers of nodes tell."""

    def __init__(
        self, bounds: Bounds, nodes: Mapping[str, Sampling], clock: Clock = SYSTEM
    ) -> None:
        """`nodes`: by their names; some may come and go."""
        self._bounds, self._nodes, self._clock = bounds, nodes, clock
        self._watched: dict[str, _Watched] = {}
        self._news = threading.Event()
        # Guards `_wake_at`.
        self._lock = threading.Lock()
        self._wake_at = float("inf")
        self._sample_at = 0.0
        self._looked_at = 0.0
        self.closed = False
        self._log = Log("pilot.node.supervisor")

    @contextmanager
    def watching(
        self,
        attempt: Attempt,
        work: Workdir,
        nodes: Sequence[Sampling],
        gpus: Sequence[tuple[str, ...]] = (),
    ) -> Iterator[None]:
        """Look after the payload of `attempt`, which runs on these nodes, while this lasts. `gpus`:
        the UUIDs of those that it has on each."""
        watched = _Watched(attempt, work, self._clock.monotonic())
        for node, names in zip(nodes, gpus or [()] * len(nodes), strict=True):
            watched.watch(node, names)
        self._watched[attempt.name] = watched
        attempt.used_on_nodes = watched.used_on_nodes
        self.wake_by(min(watched.deadline, watched.began + SHORTEST_S))
        try:
            yield
        finally:
            for name, node in watched.nodes.items():
                watched.left(name, node.forget(attempt.name))
            del self._watched[attempt.name]
            self._last_look(watched)

    def gain(self, attempt: Attempt, node: Sampling, gpus: tuple[str, ...]) -> None:
        """The payload of `attempt`, which is watched, runs on one node more."""
        self._watched[attempt.name].watch(node, gpus)

    def lose(self, attempt: Attempt, node: str) -> None:
        """A node of the payload is lost, and the payload goes on."""
        self._watched[attempt.name].lose(node)

    def wake_by(self, at: float) -> None:
        """See to it that the supervisor looks at `at`. Any thread may call this."""
        with self._lock:
            if at >= self._wake_at:
                return
            self._wake_at = at
        self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    def run(self, loop: Loop) -> None:
        """The thread: until `close`."""
        while not self.closed:
            self._news.clear()
            left = self._turn() - self._clock.monotonic()
            loop.turned(None)
            self._clock.wait(self._news, None if left == float("inf") else max(0.0, left))

    def _turn(self) -> float:
        """Look, and return when to look again: sooner if `wake_by` was called meanwhile, as the
        look may have missed what it was called for."""
        with self._lock:
            due, self._wake_at = self._wake_at, float("inf")
        wake_at = self._look(self._clock.monotonic(), due)
        with self._lock:
            self._wake_at = min(self._wake_at, wake_at)
            return self._wake_at

    def _look(self, now: float, due: float = float("inf")) -> float:
        """Enforce what is due; when to look again. `due`: when this look was to be."""
        watched = list(self._watched.values())
        if now - self._looked_at > SUSPENDED_S and self._looked_at and now > due + SUSPENDED_S:
            # The node was suspended, and perhaps the payloads too: they were not idle.
            for one in watched:
                one.signs.alive_at += now - self._looked_at
        self._looked_at = now
        wake_at = float("inf")
        for one in watched:
            kill_at = one.attempt.kill_at
            if kill_at is not None and now >= kill_at:
                one.attempt.kill()
            elif kill_at is not None:
                wake_at = min(wake_at, kill_at)
            if now >= one.deadline:
                self._stop(
                    one,
                    Code.WALLTIME,
                    f"the payload ran {one.attempt.spec.walltime_s} s, its time limit",
                    "ask for more `walltime`",
                    self._bounds.grace_s,
                )
            else:
                wake_at = min(wake_at, one.deadline)
        if not watched:
            return wake_at
        if now >= self._sample_at:
            used = self._clock.cpu_s()
            for name, node in list(self._nodes.items()):
                if (samples := node.samples(now)) is not None:
                    self._take(name, samples, now)
            self._files(watched, now)
            self._sample_at = now + rest_s(self._clock.cpu_s() - used)
        return min(wake_at, self._sample_at)

    def _take(self, node: str, samples: Sequence[Sample], now: float) -> None:
        """Judge by what a node has told of all payloads that run there."""
        for sample in samples:
            one = self._watched.get(sample.key)
            if one is None or (part := one.take(node, sample)) is None:
                continue
            one.signs.worked(node, sample.cpu_s + sample.gpu_s, sample.moved_bytes, now)
            if sample.local is not None:
                one.signs.wrote(node, sample.local.mark, now)
            self._used(one, now)
            self._memory(one, part)
        told = {sample.key for sample in samples}
        for key, one in list(self._watched.items()):
            if key not in told and (part := one.parts.get(node)) and part.last.processes:
                part.gone()
                self._used(one, now)

    def _used(self, one: _Watched, now: float) -> None:
        before, parts = one.attempt.usage, one.parts.values()
        rss = sum(part.last.rss_kb for part in parts)
        gpu_memory_mb = sum(part.last.gpu_memory_mb for part in parts)
        one.attempt.usage = replace(
            before,
            cpu_s=round(max(before.cpu_s, sum(part.cpu_s for part in parts)), 3),
            wall_s=round(now - one.began, 3),
            rss_kb=rss,
            max_rss_kb=max(before.max_rss_kb, rss),
            max_pss_kb=max(before.max_pss_kb, sum(part.used_kb for part in parts)),
            read_bytes=max(before.read_bytes, sum(part.read_bytes for part in parts)),
            write_bytes=max(before.write_bytes, sum(part.write_bytes for part in parts)),
            processes=sum(part.last.processes for part in parts),
            gpu_s=round(sum(part.gpu_s for part in parts), 3),
            gpu_memory_mb=gpu_memory_mb,
            max_gpu_memory_mb=max(before.max_gpu_memory_mb, gpu_memory_mb),
        )

    def _memory(self, one: _Watched, part: _Part) -> None:
        used, files = part.last.used_kb, part.last.files_kb
        if used is None or used <= one.attempt.spec.memory_mb * 1024:
            return
        kept = f", {files // 1024} MB of it in files" if files > 1024 else ""
        self._stop(
            one,
            Code.OVER_MEMORY,
            f"the payload used {used // 1024} MB of memory{kept}, it asked for "
            f"{one.attempt.spec.memory_mb} MB",
            "ask for more `memory`",
        )

    def _files(self, watched: Sequence[_Watched], now: float) -> None:
        for one in watched:
            self._logs(one, now)
            if now >= one.disk_next:
                used = self._clock.cpu_s()
                self._disk(one, now)
                one.disk_next = now + disk_rest_s(self._clock.cpu_s() - used, len(watched))

    def _logs(self, one: _Watched, now: float) -> None:
        size = 0
        seen: list[tuple[int, int]] = []
        for path in (one.work.stdout, one.work.stderr):
            try:
                found = path.lstat()
            except OSError:
                continue
            size += max(found.st_size, charge(found))
            seen.append((found.st_size, found.st_mtime_ns))
        one.signs.wrote("output", hash(tuple(seen)), now)
        if size > self._bounds.stdout_bytes:
            self._stop(
                one,
                Code.STDOUT_TOO_BIG,
                f"stdout and stderr have {size} bytes, this site takes {self._bounds.stdout_bytes}",
                "let the payload write less, or to a file that is an output",
            )

    def _disk(self, one: _Watched, now: float) -> None:
        walked = one.disk.step()
        self._disk_limit(one, one.disk)
        # What is not seen yet may be what changes.
        if not walked or any(part.unread for part in one.parts.values()):
            return
        for part in one.parts.values():
            part.walks = 0 if part.last.local is None else part.last.local.walks
        one.signs.wrote("files", one.disk.mark, now)
        own = one.attempt.spec.looping_s
        limit = self._bounds.looping_s if own is None else own
        if 0 < limit < now - one.signs.alive_at:
            self._stop(
                one,
                Code.LOOPING_JOB,
                f"the payload gave no sign of life for {limit:.0f} s: no output, no file that changed, "
                "hardly any CPU time or I/O",
                "let it write its progress, or give the job a longer `looping`, or the site "
                "`limits.looping`",
                self._bounds.grace_s,
            )

    def _last_look(self, one: _Watched) -> None:
        """What the payload left counts, too, however short it ran."""
        for part in one.parts.values():
            part.gone()
        one.attempt.usage = one.attempt.used()
        disk = one.disk.anew()
        one.work.empty = disk.step(FINAL_ENTRIES) and not disk.entries
        self._disk_limit(one, disk)
        self._logs(one, self._clock.monotonic())

    def _disk_limit(self, one: _Watched, disk: Disk) -> None:
        """The limit is that of a node for what lies there, and of all nodes for the whole."""
        asked = one.attempt.spec.disk_mb << 20
        parts = one.parts.values()
        used = disk.used + sum(part.last.nameless_bytes + part.local_bytes for part in parts)
        one.attempt.usage = replace(one.attempt.usage, disk_mb=-(-used // 1024**2))
        elsewhere = asked * (max(one.attempt.spec.nodes, len(one.nodes)) - 1)
        beside = max([used - one.inputs_bytes - elsewhere, *(part.local_bytes for part in parts)])
        if beside > asked:
            self._stop(
                one,
                Code.WORKDIR_TOO_LARGE,
                f"the job's directory and /tmp have {-(-beside // 1024**2)} MB beside its inputs, "
                f"it asked for {one.attempt.spec.disk_mb} MB; each file counts at least 4 kB",
                "ask for more `disk`, or let it pack small files together",
            )
        elif disk.too_deep or any(part.too_deep for part in parts):
            self._stop(
                one,
                Code.WORKDIR_TOO_LARGE,
                "the payload made directories so deep that their path is longer than 4096 bytes: what is "
                "in them cannot be counted",
                "let it use shorter paths",
            )

    def _stop(
        self, one: _Watched, code: Code, what: str, remedy: str, grace_s: float = 0.0
    ) -> None:
        if one.attempt.stopped is None:
            self._log.info("limit_passed", job_id=one.attempt.id[0], code=int(code), what=what)
            one.attempt.stop(JobError(code, what, remedy=remedy), grace_s=grace_s)


def _each(parts: Mapping[str, _Part]) -> tuple[NodeUsage, ...]:
    """What was used on each node."""
    return tuple(
        NodeUsage(
            node=name,
            cpu_s=round(part.cpu_s, 3),
            rss_kb=part.last.rss_kb,
            processes=part.last.processes,
            gpu_memory_mb=part.last.gpu_memory_mb,
            max_rss_kb=part.max_rss_kb,
            read_bytes=part.read_bytes,
            write_bytes=part.write_bytes,
            gpu_s=round(part.gpu_s, 3),
        )
        for name, part in islice(parts.items(), MOST_NODES)
    )
