"""The supervisor: one thread that looks after all payloads, and stops those that pass a limit.

It looks as often as it can afford: a pass may take a four-hundredth of a core, so few payloads are
seen every second and a packed node every few. Deadlines are waited for, not polled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.clock import SYSTEM, Clock
from pilot.node.sampler import ProcSampler, Sampler
from pilot.ports import JobError
from pilot.process import proc
from pilot.process.activity import Signs
from pilot.process.usage import ENTRY_BYTES, Disk, Nameless, NodeUse, charge
from pilot.site import Bounds
from pilot.workdir import Workdir

# The share of one core for samples; disks have as much again.
SHARE = 0.0025
SHORTEST_S, PSS_EVERY_S, SUSPENDED_S = 1.0, 60.0, 30.0
# How many entries are looked at in one go, before a payload starts and when it has ended.
FINAL_ENTRIES = 50_000
# What the directories take that the pilot makes.
BEFORE_BYTES = 2 * ENTRY_BYTES
# Files without a name are searched for when the node has so much more in memory or on disk than at
# the last search: they cannot have grown by more. A node where others free as much is searched
# every few minutes.
GROWN_MEMORY_KB, GROWN_DISK_KB, SEARCH_EVERY_S = 4096, 65_536, 60.0


class _Watched:
    """What the supervisor remembers of one payload."""

    def __init__(self, attempt: Attempt, work: Workdir, now: float) -> None:
        self.attempt, self.work = attempt, work
        self.began = now
        self.disk = Disk((work.directory, work.tmp))
        # What was staged is there by now, and counts beside the disk that the job asked for.
        if attempt.spec.inputs or attempt.spec.script:
            self.disk.step(FINAL_ENTRIES)
        self.disk_limit = (attempt.spec.disk_mb << 20) + self.disk.used + BEFORE_BYTES
        self.nameless = Nameless(0, 0)
        # The least since the last search for files without a name.
        self.node = NodeUse(0, 0)
        self.nameless_next, self.search_by, self.disk_next = now, now, now + 2.0
        self.pss_next = now + PSS_EVERY_S / 2
        self.signs = Signs(now)

    @property
    def deadline(self) -> float:
        walltime = self.attempt.spec.walltime_s
        return float("inf") if walltime is None else self.began + walltime


class Supervisor:
    """One pass over /proc a sample, for all payloads."""

    def __init__(
        self, bounds: Bounds, clock: Clock = SYSTEM, sampler: Sampler | None = None
    ) -> None:
        self._bounds, self._clock = bounds, clock
        self._sampler: Sampler = sampler or ProcSampler()
        self._watched: dict[Attempt, _Watched] = {}
        self._news = threading.Event()
        # Guards `_wake_at`.
        self._lock = threading.Lock()
        self._wake_at = float("inf")
        self._sample_at = 0.0
        self._looked_at = 0.0
        self.closed = False
        self._log = Log("pilot.node.supervisor")

    @contextmanager
    def watching(self, attempt: Attempt, work: Workdir) -> Iterator[None]:
        """Look after the payload of `attempt` while this lasts."""
        watched = self._watched[attempt] = _Watched(attempt, work, self._clock.monotonic())
        self.wake_by(min(watched.deadline, watched.began + SHORTEST_S))
        try:
            yield
        finally:
            del self._watched[attempt]
            self._last_look(watched)

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
            self._sample(watched, now)
            self._sample_at = now + max(SHORTEST_S, (self._clock.cpu_s() - used) / SHARE)
        return min(wake_at, self._sample_at)

    def _sample(self, watched: list[_Watched], now: float) -> None:
        processes = self._sampler.scan()
        node = self._sampler.node_use(watched[0].work.path)
        by_pid = {pid: one for one in watched if (pid := one.attempt.pid) is not None}
        for pid, tree in proc.trees(processes, by_pid).items():
            one = by_pid[pid]
            mapped = sum(processes[p].rss_kb for p in tree)
            cpu_s = sum(processes[p].cpu_s for p in tree)
            files = self._files_in_memory(one, tree, now, node)
            rss = mapped + (max(0, files - self._sampler.rss_shmem_kb(tree)) if files else 0)
            # Like CPU time, the I/O of a process passes to the parent that waits for it, so the
            # processes that exist have all of it; what nobody waited for stays in the maximum.
            # Parents are read before their children: a child that is waited for meanwhile is missed
            # once, and never counted twice.
            io = [found for p in tree if (found := self._sampler.io_of(p)) is not None]
            before = one.attempt.usage
            one.attempt.usage = replace(
                before,
                cpu_s=round(max(before.cpu_s, cpu_s), 3),
                wall_s=round(now - one.began, 3),
                rss_kb=rss,
                max_rss_kb=max(before.max_rss_kb, rss),
                read_bytes=max(before.read_bytes, sum(found.read for found in io)),
                write_bytes=max(before.write_bytes, sum(found.written for found in io)),
                processes=len(tree),
            )
            one.signs.worked(cpu_s, sum(found.moved for found in io), now)
            self._memory(one, tree, mapped + files, files, now)
        for one in watched:
            self._logs(one, now)
            if now >= one.disk_next:
                used = self._clock.cpu_s()
                self._disk(one, now)
                cost = self._clock.cpu_s() - used
                one.disk_next = now + max(5.0, len(watched) * cost / SHARE)

    def _files_in_memory(self, one: _Watched, tree: list[int], now: float, node: NodeUse) -> int:
        """The kB of files that a payload keeps in memory: in its /dev/shm, or without a name. A
        payload that has files without a name is searched with its disk, as they may go."""
        grown = (
            node.memory_kb > one.node.memory_kb + GROWN_MEMORY_KB
            or node.disk_kb > one.node.disk_kb + GROWN_DISK_KB
        )
        search_at = one.disk_next if one.nameless.memory or one.nameless.disk else one.search_by
        if now >= one.nameless_next and (grown or now >= search_at):
            used = self._clock.cpu_s()
            one.nameless = self._sampler.nameless(tree, one.work.directory)
            one.node = node
            one.search_by = now + SEARCH_EVERY_S
            one.nameless_next = now + (self._clock.cpu_s() - used) / SHARE
        else:
            one.node = one.node.least(node)
        inside = self._sampler.shared_memory_kb(tree[1]) if len(tree) > 1 else 0
        return inside + one.nameless.memory // 1024

    def _memory(self, one: _Watched, tree: list[int], most: int, files: int, now: float) -> None:
        """`most` counts shared pages once a process, and files in memory apart from what is mapped
        of them: so before it counts against anybody, shares decide."""
        limit = one.attempt.spec.memory_mb * 1024
        if most <= limit and now < one.pss_next:
            return
        one.pss_next = now + PSS_EVERY_S
        mapped = self._sampler.pss_kb(tree)
        used = most
        if mapped is not None:
            used = mapped.all
            if files:
                used += max(0, files - (mapped.shmem or self._sampler.rss_shmem_kb(tree)))
            usage = one.attempt.usage
            one.attempt.usage = replace(usage, max_pss_kb=max(usage.max_pss_kb, used))
        if used > limit:
            kept = f", {files // 1024} MB of it in files" if files > 1024 else ""
            self._stop(
                one,
                Code.OVER_MEMORY,
                f"the payload used {used // 1024} MB of memory{kept}, it asked for "
                f"{one.attempt.spec.memory_mb} MB",
                "ask for more `memory`",
            )

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
        self._disk_limit(one, one.disk, one.nameless.disk)
        # What is not seen yet may be what changes.
        if not walked:
            return
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
        disk = one.disk.anew()
        one.work.empty = disk.step(FINAL_ENTRIES) and not disk.entries
        self._disk_limit(one, disk, 0)
        self._logs(one, self._clock.monotonic())

    def _disk_limit(self, one: _Watched, disk: Disk, without_name: int) -> None:
        used = disk.used + without_name
        one.attempt.usage = replace(one.attempt.usage, disk_mb=-(-used // 1024**2))
        if used > one.disk_limit:
            inputs = one.disk_limit - (one.attempt.spec.disk_mb << 20)
            self._stop(
                one,
                Code.WORKDIR_TOO_LARGE,
                f"the job's directory and /tmp have {-(-(used - inputs) // 1024**2)} MB beside its inputs, "
                f"it asked for {one.attempt.spec.disk_mb} MB; each file counts at least 4 kB",
                "ask for more `disk`, or let it pack small files together",
            )
        elif disk.too_deep:
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
