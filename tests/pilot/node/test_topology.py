"""Which CPUs a payload is bound to, on nodes as the kernel shows them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pilot.node.topology import Cpu, alone, choose, look, parse_list


def epyc(nps: int = 4, cores: int = 64, threads: int = 2, ccx: int = 8) -> list[Cpu]:
    """Two packages of 64 cores; `nps` NUMA nodes a package, caches that `ccx` cores share. Second
    threads are counted after all first ones, as Linux does."""
    made = []
    for thread in range(threads):
        for core in range(2 * cores):
            package, inside = divmod(core, cores)
            made.append(
                Cpu(
                    number=thread * 2 * cores + core,
                    core=core,
                    cache=core - core % ccx,
                    node=package * cores + inside // (cores // nps) * (cores // nps),
                    package=package * cores,
                    threads=threads,
                )
            )
    return made


def numbers(cpus: tuple[Cpu, ...]) -> list[int]:
    return [cpu.number for cpu in cpus]


def without(free: list[Cpu], taken: tuple[Cpu, ...]) -> list[Cpu]:
    return [cpu for cpu in free if cpu not in taken]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0]),
        (4, [0, 1, 2, 3]),
        (8, list(range(8))),  # a cache
        (16, list(range(16))),  # a NUMA node
        (64, list(range(64))),  # a package
        (128, list(range(128))),  # all cores
        (129, [*range(128), 128]),
        (256, list(range(256))),
        (300, list(range(256))),
    ],
)
def test_cores_come_before_hyper_threads_and_what_is_close_together(count, expected):
    assert numbers(choose(epyc(), count)) == expected


def test_what_fits_in_one_cache_is_not_spread_over_what_is_left_of_others():
    free = epyc()
    for core in range(8):  # of the first cache six are taken, of the second two
        if core < 6:
            free = [cpu for cpu in free if cpu.core != core]
    free = [cpu for cpu in free if cpu.core not in {8, 9}]
    assert numbers(choose(free, 2)) == [6, 7]
    assert numbers(choose(free, 4)) == [10, 11, 12, 13]
    assert numbers(choose(free, 8)) == list(range(16, 24))


def test_the_tightest_domain_is_taken_and_the_others_stay_whole():
    free = [cpu for cpu in epyc() if cpu.core >= 3]
    assert numbers(choose(free, 5)) == [3, 4, 5, 6, 7]
    free = without(free, choose(free, 3))
    assert numbers(choose(free, 8)) == list(range(8, 16))


def test_where_no_core_is_idle_second_threads_are_taken_close_together():
    free = epyc()
    free = without(free, choose(free, 128))
    assert numbers(choose(free, 8)) == list(range(128, 136))
    taken = choose(free, 4)
    assert numbers(choose(without(free, taken), 4)) == [132, 133, 134, 135]


def test_a_node_of_one_numa_node_a_package_keeps_to_packages():
    free = [cpu for cpu in epyc(nps=1, threads=1) if cpu.core >= 40]
    found = choose(free, 40)
    assert {cpu.package for cpu in found} == {64}
    assert len({cpu.cache for cpu in found}) == 5


def test_all_that_are_given_out_are_different_until_none_is_left():
    free, seen = epyc(), []
    for count in (1, 7, 8, 3, 16, 5, 40, 64, 100, 12):
        taken = choose(free, count)
        assert len(taken) == count
        seen += numbers(taken)
        free = without(free, taken)
    assert free == []
    assert sorted(seen) == list(range(256))


def test_choosing_from_256_cpus_takes_no_time_that_counts():
    free = epyc()
    began = time.process_time()
    for _ in range(20):
        choose(free, 7)
    assert time.process_time() - began < 0.2


# how the kernel shows it --------------------------------------------------------------------------


def test_of_a_slot_that_has_one_thread_of_a_core_that_core_is_whole():
    slot = alone([cpu for cpu in epyc() if cpu.number in (0, 1, 129)])
    assert [(cpu.number, cpu.threads) for cpu in slot] == [(0, 1), (1, 2), (129, 2)]
    assert numbers(choose(slot, 1)) == [0]


def tree(root: Path) -> Path:
    """Two cores with two threads each, a NUMA node each, one package; CPUs 0,2 and 1,3 are
    siblings."""
    top = root / "sys/devices/system"
    for number in range(4):
        core = number % 2
        cpu = top / f"cpu/cpu{number}"
        (cpu / "topology").mkdir(parents=True)
        (cpu / "topology/thread_siblings_list").write_text(f"{core},{core + 2}\n")
        (cpu / "topology/core_siblings_list").write_text("0-3\n")
        for index, (level, shared) in enumerate([("1", f"{core},{core + 2}"), ("3", "0-3")]):
            cache = cpu / f"cache/index{index}"
            cache.mkdir(parents=True)
            (cache / "level").write_text(level + "\n")
            (cache / "shared_cpu_list").write_text(shared + "\n")
    for node in range(2):
        (top / f"node/node{node}").mkdir(parents=True)
        (top / f"node/node{node}/cpulist").write_text(f"{node},{node + 2}\n")
    return root


def test_it_is_read_from_sys(tmp_path):
    assert look([0, 1, 2, 3], tree(tmp_path)) == (
        Cpu(0, core=0, cache=0, node=0, package=0, threads=2),
        Cpu(1, core=1, cache=0, node=1, package=0, threads=2),
        Cpu(2, core=0, cache=0, node=0, package=0, threads=2),
        Cpu(3, core=1, cache=0, node=1, package=0, threads=2),
    )


def test_of_a_core_only_what_may_be_used_counts(tmp_path):
    assert [cpu.threads for cpu in look([2, 1, 3], tree(tmp_path))] == [2, 1, 2]


def test_a_kernel_that_shows_nothing_shows_cores_that_share_nothing(tmp_path):
    cpus = look([4, 7], tmp_path)
    assert cpus == (Cpu(4, core=4, cache=4, node=0, package=4), Cpu(7, 7, 7, 0, 7))
    assert numbers(choose(cpus, 1)) == [4]


def test_the_cpus_of_this_machine_are_found():
    here = os.sched_getaffinity(0)
    assert {cpu.number for cpu in look(here)} == here


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3,64-67\n", [0, 1, 2, 3, 64, 65, 66, 67]), ("5", [5]), ("", []), ("0-", []), ("x", [])],
)
def test_lists_of_cpus(text, expected):
    assert parse_list(text) == (expected if text != "0-" else [0])
