"""Which CPUs of a node are close to each other, and which a payload is bound to.

A payload gets cores of its own before it shares any by hyper-threads; and of those, what shares a
last-level cache, a NUMA node or a package, in the narrowest of these that has enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace


class Cpu(Struct, frozen=True, array_like=True, gc=False):
    """A CPU as the kernel counts them, and what it shares; each by the number of the first CPU that
    has a part in it."""

    number: int
    core: int
    cache: int
    """The last level."""
    node: int
    """Of memory."""
    package: int
    threads: int = 1
    """How many CPUs of its core may be used at all."""


_Domain = Callable[[Cpu], int]
_DOMAINS: tuple[_Domain, ...] = (
    lambda cpu: cpu.cache,
    lambda cpu: cpu.node,
    lambda cpu: cpu.package,
    lambda cpu: 0,
)
"""From the narrowest on."""


def look(numbers: Iterable[int], root: Path = Path("/")) -> tuple[Cpu, ...]:
    """The CPUs of these numbers, as /sys of `root` shows them. What it does not show counts as not
    shared; all memory as one node."""
    top = root / "sys/devices/system"
    nodes = {
        number: min(shared)
        for directory in top.glob("node/node[0-9]*")
        if (shared := parse_list(_text(directory / "cpulist")))
        for number in shared
    }
    numbers = sorted(numbers)
    cores = _shared(numbers, lambda number: _list(top, number, "thread_siblings_list"))
    packages = _shared(numbers, lambda number: _list(top, number, "core_siblings_list"))
    caches = _shared(numbers, lambda number: _last_cache(top, number))
    threads = Counter(cores[number] for number in numbers)
    return tuple(
        Cpu(
            number=number,
            core=cores[number],
            cache=caches[number],
            node=nodes.get(number, 0),
            package=packages[number],
            threads=threads[cores[number]],
        )
        for number in numbers
    )


def alone(cpus: Sequence[Cpu]) -> tuple[Cpu, ...]:
    """These CPUs as all that may be used of their node."""
    threads = Counter(cpu.core for cpu in cpus)
    return tuple(replace(cpu, threads=threads[cpu.core]) for cpu in cpus)


def choose(free: Sequence[Cpu], count: int) -> tuple[Cpu, ...]:
    """The `count` CPUs of `free` that a payload gets, by number; all if there are fewer."""
    cores: dict[int, list[Cpu]] = {}
    for cpu in free:
        cores.setdefault(cpu.core, []).append(cpu)
    idle = [cpus[0] for cpus in cores.values() if len(cpus) == cpus[0].threads]
    for some in (idle, free):
        for domain in _DOMAINS:
            groups: dict[int, list[Cpu]] = {}
            for cpu in some:
                groups.setdefault(domain(cpu), []).append(cpu)
            fitting = [group for group in groups.values() if len(group) >= count]
            if fitting:
                # The tightest: the others are left whole for wider payloads.
                tightest = min(fitting, key=lambda group: (len(group), group[0].number))
                return _together(tightest, count)
    return tuple(free)


def _together(cpus: Sequence[Cpu], count: int) -> tuple[Cpu, ...]:
    """Of a domain: one CPU of each core before a second one, from as few caches as possible."""
    first = {cpu.core: cpu for cpu in reversed(cpus)}.values()
    second = [cpu for cpu in cpus if cpu not in first]
    found = _from_caches(list(first), count)
    found += _from_caches(second, count - len(found))
    return tuple(sorted(found, key=lambda cpu: cpu.number))


def _from_caches(cpus: Sequence[Cpu], count: int) -> list[Cpu]:
    caches: dict[int, list[Cpu]] = {}
    for cpu in sorted(cpus, key=lambda cpu: cpu.number):
        caches.setdefault(cpu.cache, []).append(cpu)
    found: list[Cpu] = []
    while caches and len(found) < count:
        missing = count - len(found)
        enough = [cache for cache in caches.values() if len(cache) >= missing]
        # The tightest that has all that is missing, or else the largest.
        best = min(enough, key=len) if enough else max(caches.values(), key=len)
        found += best[:missing]
        del caches[best[0].cache]
    return found


def parse_list(text: str) -> list[int]:
    """The numbers of a list as the kernel writes it: `0-3,64-67`; none of one that is not."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            return []
        found += range(int(first), int(last or first) + 1)
    return found


def _shared(numbers: Sequence[int], sharing: Callable[[int], list[int]]) -> dict[int, int]:
    """For each CPU the first of those that share something with it; each file is read once."""
    found: dict[int, int] = {}
    for number in numbers:
        if number not in found:
            found |= dict.fromkeys((shared := sharing(number)), min(shared, default=number))
            found.setdefault(number, number)
    return found


def _list(top: Path, number: int, name: str) -> list[int]:
    return parse_list(_text(top / f"cpu/cpu{number}/topology" / name))


def _last_cache(top: Path, number: int) -> list[int]:
    """Who shares the highest level of cache that this CPU has."""
    levels = [
        (int(level), parse_list(_text(index / "shared_cpu_list")))
        for index in (top / f"cpu/cpu{number}/cache").glob("index*")
        if (level := _text(index / "level")).isdecimal()
    ]
    return max(levels, default=(0, []))[1]


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace").strip()
    except OSError:
        return ""
