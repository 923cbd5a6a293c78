"""A bare head with agents, in an allocation of Slurm: JSON lines over TCP, posix_spawn, pidfd.

    nodes.py head FILE SLOTS ORDER [DEAD_S]
                                      FILE has a JSON list of [argv, cores, seconds]; ORDER is
                                      `fifo` or `widest`. Writes FILE.done: what it measured. With
                                      DEAD_S tasks of an agent that went, or was silent for so long,
                                      are given to others.
    nodes.py agent HOST PORT

It keeps no book, limits nothing, cleans nothing up, and believes whoever calls. An agent beats, but
it has no lease: one that is cut off lets its tasks run.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

Task = tuple[list[str], int, float]
BEAT_S = 0.5


class Agent:
    """Spawns what it is told to, and says which have ended."""

    def __init__(self, host: str, port: int) -> None:
        self._link = socket.create_connection((host, port))
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.epoll()
        self._poll.register(self._link, select.EPOLLIN)
        self._running: dict[int, tuple[int, int]] = {}
        null = os.open("/dev/null", os.O_RDWR)
        self._files = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        self._rest = b""

    def run(self) -> None:
        """Until the head closes the connection."""
        self._link.sendall(json.dumps(socket.gethostname()).encode() + b"\n")
        while True:
            ended = []
            found = self._poll.poll(BEAT_S)
            for fd, _ in found:
                if fd == self._link.fileno():
                    if not (data := self._link.recv(1 << 18)):
                        return
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    for line in lines:
                        self._told(json.loads(line))
                else:
                    ended.append(self._reaped(fd))
            if ended or not found:
                self._link.sendall(json.dumps(ended).encode() + b"\n")

    def _told(self, tasks: list[tuple[int, list[str]]] | None) -> None:
        if tasks is None:
            used = os.times()
            cpu_s = used.user + used.system + used.children_user + used.children_system
            self._link.sendall(json.dumps({"cpu_s": cpu_s, "pss": pss_mb()}).encode() + b"\n")
            return
        for number, argv in tasks:
            pid = os.posix_spawn(argv[0], argv, {}, file_actions=self._files, setsid=True)
            held = os.pidfd_open(pid)
            self._poll.register(held, select.EPOLLIN)
            self._running[held] = pid, number

    def _reaped(self, held: int) -> tuple[int, int]:
        pid, number = self._running.pop(held)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(held)
        os.close(held)
        return number, status


class Head:
    """Gives tasks to agents with free slots, back-filled in the order of the list."""

    def __init__(self, tasks: list[Task], slots: int, dead_s: float) -> None:
        """`dead_s`: 0 where no agent is to be lost."""
        self._tasks, self._slots, self._dead_s = tasks, slots, dead_s
        self._waiting = list(range(len(tasks)))
        self._links: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self._free: dict[int, int] = {}
        self._given: dict[int, set[int]] = {}
        self._heard_at: dict[int, float] = {}
        self._poll = select.epoll()
        self.joined: dict[str, float] = {}
        self.told: list[dict[str, float]] = []

    def join(self, listener: socket.socket, count: int) -> None:
        """Let so many agents in."""
        for _ in range(count):
            link, _ = listener.accept()
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = json.loads(link.makefile("rb").readline())
            self.joined[name] = time.time()
            fd = link.fileno()
            self._links[fd], self._rest[fd], self._free[fd] = link, b"", self._slots
            self._given[fd], self._heard_at[fd] = set(), time.monotonic()
            self._poll.register(link, select.EPOLLIN)

    def run(self) -> float:
        """Run all tasks; seconds."""
        began = time.perf_counter()
        left = len(self._tasks)
        self._give()
        while left:
            left -= self._hear()
            self._give()
        return time.perf_counter() - began

    def end(self) -> None:
        """Ask all agents what they used."""
        for link in self._links.values():
            link.sendall(b"null\n")
        while len(self.told) < len(self._links):
            self._hear()
        for link in self._links.values():
            link.close()

    def _hear(self) -> int:
        count = 0
        for fd, _ in self._poll.poll(BEAT_S if self._dead_s else -1):
            if not (data := self._received(fd)):
                self._lose(fd)
                continue
            self._heard_at[fd] = time.monotonic()
            *lines, self._rest[fd] = (self._rest[fd] + data).split(b"\n")
            for line in lines:
                heard = json.loads(line)
                if isinstance(heard, dict):
                    self.told.append(heard)
                    continue
                for number, status in heard:
                    if status:
                        raise SystemExit(f"task {number} failed")
                    self._free[fd] += self._tasks[number][1]
                    self._given[fd].discard(number)
                    count += 1
        silent = time.monotonic() - self._dead_s
        for fd in [fd for fd, at in self._heard_at.items() if self._dead_s and at < silent]:
            self._lose(fd)
        return count

    def _received(self, fd: int) -> bytes:
        try:
            return self._links[fd].recv(1 << 18)
        except OSError:
            return b""

    def _lose(self, fd: int) -> None:
        """Give the tasks of an agent to others, first."""
        if not self._dead_s:
            raise SystemExit("an agent went")
        self._poll.unregister(fd)
        self._links.pop(fd).close()
        self._waiting[:0] = sorted(self._given.pop(fd))
        del self._free[fd], self._rest[fd], self._heard_at[fd]

    def _give(self) -> None:
        given: dict[int, list[tuple[int, list[str]]]] = {}
        free = sum(self._free.values())
        kept = []
        for at, number in enumerate(self._waiting):
            if not free:
                kept += self._waiting[at:]
                break
            argv, cores, _ = self._tasks[number]
            fd = max(self._free, key=self._free.__getitem__)
            if self._free[fd] < cores:
                kept.append(number)
                continue
            self._free[fd] -= cores
            free -= cores
            given.setdefault(fd, []).append((number, argv))
            self._given[fd].add(number)
        self._waiting = kept
        for fd, tasks in given.items():
            self._links[fd].sendall(json.dumps(tasks).encode() + b"\n")


def pss_mb() -> float:
    """This process's memory."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def lead(file: Path, slots: int, order: str, dead_s: float) -> None:
    """The head."""
    began = time.time()
    tasks: list[Task] = json.loads(file.read_text(encoding="utf-8"))
    if order == "widest":
        tasks.sort(key=lambda task: (-task[1], -task[2]))
    count = int(os.environ["SLURM_JOB_NUM_NODES"])
    listener = socket.create_server((socket.gethostname(), 0))
    host, port = listener.getsockname()
    step = ["srun", "--no-kill", "-K0", "--overlap", f"--ntasks={count}", "--ntasks-per-node=1"]
    agents = [sys.executable, "-S", "-E", __file__, "agent", host, str(port)]
    with subprocess.Popen([*step, *agents], stdin=subprocess.DEVNULL):
        head = Head(tasks, slots, dead_s)
        head.join(listener, count)
        before = time.process_time()
        took = head.run()
        own = time.process_time() - before
        head.end()
        found = {
            "seconds": took,
            "cpu_s": own + sum(one["cpu_s"] for one in head.told),
            "agent_mb": max(one["pss"] for one in head.told),
            "head_mb": pss_mb(),
            "joined_s": max(head.joined.values()) - began,
        }
        # Before srun has ended, which waits long for a node that is gone.
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(found))
        draft.rename(f"{file}.done")


if __name__ == "__main__":
    if sys.argv[1] == "agent":
        Agent(sys.argv[2], int(sys.argv[3])).run()
    else:
        file, slots, order, *dead_s = sys.argv[2:]
        lead(Path(file), int(slots), order, float(dead_s[0]) if dead_s else 0.0)
