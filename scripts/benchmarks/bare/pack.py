"""The bare loop: posix_spawn, pidfd and epoll in one thread, first come or longest first,
back-filled."""

from __future__ import annotations

import heapq
import os
import select
import time
from collections.abc import Sequence
from typing import NamedTuple


class Task(NamedTuple):
    """A command, the cores it holds, and how long it takes."""

    argv: tuple[str, ...]
    cores: int = 1
    seconds: float = 0.0


def run(tasks: Sequence[Task], width: int) -> float:
    """Run all tasks in the order given on `width` slots; seconds in all."""
    poll = select.epoll()
    waiting = list(reversed(tasks))
    running: dict[int, tuple[int, int]] = {}
    free = width
    null = os.open("/dev/null", os.O_RDWR)
    files = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    began = time.perf_counter()
    while waiting or running:
        nr = len(waiting) - 1
        while nr >= 0 and free:
            if waiting[nr].cores <= free:
                task = waiting.pop(nr)
                pid = os.posix_spawn(task.argv[0], task.argv, {}, file_actions=files, setsid=True)
                held = os.pidfd_open(pid)
                poll.register(held, select.EPOLLIN)
                running[held] = pid, task.cores
                free -= task.cores
            nr -= 1
        for held, _ in poll.poll():
            pid, cores = running.pop(held)
            os.waitpid(pid, 0)
            poll.unregister(held)
            os.close(held)
            free += cores
    took = time.perf_counter() - began
    poll.close()
    os.close(null)
    return took


def simulated(tasks: Sequence[Task], width: int) -> float:
    """How long the same schedule takes if starting a task cost nothing."""
    waiting = list(tasks)
    running: list[tuple[float, int]] = []
    free, now = width, 0.0
    while waiting or running:
        for task in list(waiting):
            if task.cores <= free:
                waiting.remove(task)
                heapq.heappush(running, (now + task.seconds, task.cores))
                free -= task.cores
            if not free:
                break
        now, cores = heapq.heappop(running)
        free += cores
    return now


def longest_first(tasks: Sequence[Task]) -> list[Task]:
    """The order that fills the end best."""
    return sorted(tasks, key=lambda task: -task.seconds)


def area(tasks: Sequence[Task], width: int) -> float:
    """No schedule is shorter than this."""
    return sum(task.seconds * task.cores for task in tasks) / width
