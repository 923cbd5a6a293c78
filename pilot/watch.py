"""The supervisor: one thread that looks after all payloads, and stops those that pass a limit.

It looks as often as it can afford: a pass may take a four-hundredth of a core, so few payloads are
seen every second and a packed node every few. Deadlines are waited for, not polled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol.errors import Code
from pilot import proc
from pilot.held import Held
from pilot.ports import JobError
from pilot.site import Bounds
from pilot.workdir import Workdir

SHARE = 0.0025  # of one core, for samples; the same again for looking at disks
SHORTEST_S, PSS_EVERY_S, SUSPENDED_S = 1.0, 60.0, 30.0


class _Watched:
    """What the supervisor remembers of one payload."""

    def __init__(self, held: Held, work: Workdir, now: float) -> None:
        self.held, self.work = held, work
        self.began = self.touched = now
        self.disk_next = now + 2.0
        self.pss_next = now + PSS_EVERY_S / 2
        self.newest = 0.0
        self.io: dict[int, tuple[int, int]] = {}

    @property
    def deadline(self) -> float:
        walltime = self.held.spec.walltime_s
        return float("inf") if walltime is None else self.began + walltime


class Supervisor:
    """One pass over /proc a sample, for all payloads."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._watched: dict[Held, _Watched] = {}
        self._news = threading.Event()
        self._wake_at = float("inf")
        self._sample_at = 0.0
        self._looked_at = 0.0
        self.closed = False
        self._log = Log("pilot.watch")

    @contextmanager
    def watching(self, held: Held, work: Workdir) -> Iterator[None]:
        """Look after the payload of `held` while this lasts."""
        watched = self._watched[held] = _Watched(held, work, time.monotonic())
        self.wake_by(min(watched.deadline, watched.began + SHORTEST_S))
        try:
            yield
        finally:
            del self._watched[held]

    def wake_by(self, at: float) -> None:
        """See to it that the supervisor looks at `at`."""
        if at < self._wake_at:
            self._wake_at = at
            self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    def run(self, loop: Loop) -> None:
        """The thread: until `close`."""
        while not self.closed:
            self._news.clear()
            self._wake_at = self._look(time.monotonic())
            loop.turned(None)
            left = self._wake_at - time.monotonic()
            self._news.wait(None if left == float("inf") else max(0.0, left))

    def _look(self, now: float) -> float:
        """Enforce what is due; when to look again."""
        watched = list(self._watched.values())
        if (
            now - self._looked_at > SUSPENDED_S
            and self._looked_at
            and now > self._wake_at + SUSPENDED_S
        ):
            for one in watched:  # we were stopped, and perhaps they as well: no idleness of theirs
                one.touched += now - self._looked_at
        self._looked_at = now
        wake_at = float("inf")
        for one in watched:
            kill_at = one.held.kill_at
            if kill_at is not None and now >= kill_at:
                one.held.kill()
            elif kill_at is not None:
                wake_at = min(wake_at, kill_at)
            if now >= one.deadline:
                self._stop(one, Code.WALLTIME, f"the payload ran {one.held.spec.walltime_s} s, "
                           "its time limit", "ask for more `walltime`", self._bounds.grace_s)  # fmt: skip
            else:
                wake_at = min(wake_at, one.deadline)
        if not watched:
            return wake_at
        if now >= self._sample_at:
            used = time.thread_time()
            self._sample(watched, now)
            self._sample_at = now + max(SHORTEST_S, (time.thread_time() - used) / SHARE)
        return min(wake_at, self._sample_at)

    def _sample(self, watched: list[_Watched], now: float) -> None:
        processes = proc.scan()
        by_pid = {pid: one for one in watched if (pid := one.held.pid) is not None}
        for pid, tree in proc.trees(processes, by_pid).items():
            one = by_pid[pid]
            rss = sum(processes[p].rss_kb for p in tree)
            for p in tree:
                if (io := proc.io_of(p)) is not None:
                    one.io[p] = io
            before = one.held.usage
            one.held.usage = replace(
                before,
                cpu_s=round(max(before.cpu_s, sum(processes[p].cpu_s for p in tree)), 3),
                wall_s=round(now - one.began, 3),
                rss_kb=rss,
                max_rss_kb=max(before.max_rss_kb, rss),
                read_bytes=sum(read for read, _ in one.io.values()),
                write_bytes=sum(written for _, written in one.io.values()),
                processes=len(tree),
            )
            self._memory(one, tree, rss, now)
        for one in watched:
            self._logs(one)
            if now >= one.disk_next:
                used = time.thread_time()
                self._disk(one, now)
                cost = time.thread_time() - used
                one.disk_next = now + max(5.0, len(watched) * cost / SHARE)

    def _memory(self, one: _Watched, tree: list[int], rss: int, now: float) -> None:
        """RSS counts shared pages once a process: so before it counts against anybody, PSS decides."""
        limit = one.held.spec.memory_mb * 1024
        if rss <= limit and now < one.pss_next:
            return
        one.pss_next = now + PSS_EVERY_S
        pss = proc.pss_kb(tree)
        if pss is not None:
            usage = one.held.usage
            one.held.usage = replace(usage, max_pss_kb=max(usage.max_pss_kb, pss))
        if rss > limit and (pss is None or pss > limit):
            self._stop(
                one,
                Code.OVER_MEMORY,
                f"the payload used {(pss or rss) // 1024} MB of memory, it asked for "
                f"{one.held.spec.memory_mb} MB",
                "ask for more `memory`",
            )

    def _logs(self, one: _Watched) -> None:
        size = 0
        for path in (one.work.stdout, one.work.stderr):
            try:
                found = path.lstat()
            except OSError:
                continue
            size += found.st_size
            self._touch(one, found.st_mtime)
        if size > self._bounds.stdout_bytes:
            self._stop(
                one,
                Code.STDOUT_TOO_BIG,
                f"stdout and stderr have {size} bytes, this site takes {self._bounds.stdout_bytes}",
                "let the payload write less, or to a file that is an output",
            )

    def _disk(self, one: _Watched, now: float) -> None:
        size = 0
        for _, found in one.work.files():
            size += min(found.st_blocks * 512, found.st_size + 4096)
            self._touch(one, found.st_mtime)
        used_mb = -(-size // 1024**2)
        one.held.usage = replace(one.held.usage, disk_mb=used_mb)
        inputs_mb = sum(file.size or 0 for file in one.held.spec.inputs) >> 20
        if used_mb > one.held.spec.disk_mb + inputs_mb:
            self._stop(
                one,
                Code.WORKDIR_TOO_LARGE,
                f"the job's directory has {used_mb} MB, it asked for {one.held.spec.disk_mb} MB",
                "ask for more `disk`",
            )
        if 0 < self._bounds.looping_s < now - one.touched:
            self._stop(
                one,
                Code.LOOPING_JOB,
                f"the payload has touched no file for {self._bounds.looping_s:.0f} s",
                "let it write its progress, or raise `limits.looping` of the site",
                self._bounds.grace_s,
            )

    def _touch(self, one: _Watched, changed: float) -> None:
        """A file's time is only compared with itself: clocks of file systems differ."""
        if changed != one.newest and changed > one.newest:
            one.newest = changed
            one.touched = max(one.touched, self._looked_at)

    def _stop(
        self, one: _Watched, code: Code, what: str, remedy: str, grace_s: float = 0.0
    ) -> None:
        if one.held.stopped is None:
            self._log.info("limit_passed", job_id=one.held.id[0], code=int(code), what=what)
            one.held.stop(JobError(code, what, remedy=remedy), grace_s=grace_s)
