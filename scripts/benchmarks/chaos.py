"""kill -9 of pilot, edge and dispatcher in turn while jobs run; then everything is counted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence

from benchmarks import killed_submit
from tests.rig import batch_kills, history, node_kills
from tests.rig.figure import Figure, figure
from tests.rig.programs import Postgres, Rig, null_job
from tests.rig.proxy import Fault, Proxy
from tests.rig.settled import SITE, settled
from tests.rig.small_disk import REFUSED, SETTINGS, FullDisk, mounted
from tests.rig.waiting import until

HEARTBEAT_S = 1.0
LEASE_S = 3 * HEARTBEAT_S
FIFTH = 5


def run(args: Namespace) -> Iterator[Figure]:
    """Kills; then what --stop and --proxy ask for; then submissions killed half-way."""
    if args.backend:
        yield from batch_kills.run(args.backend, args.kills, args.seed)
        return
    if args.nodes:
        yield from node_kills.run(args.kills, args.seed, args.seconds)
        return
    yield from killed(
        args.seed,
        args.kills,
        args.jobs or 500,
        network=_network(args),
        postgres=args.postgres,
        only=args.faults,
    )
    if args.stop:
        yield from stopped(args.seed)
    if not args.postgres:
        yield from killed_submit.run(args.seed)


def _network(args: Namespace) -> Callable[[int], Fault] | None:
    """What a network between the programs does to each request; None: there is none between
    them."""
    if args.network:
        chance = random.Random(args.seed)
        return lambda nr: chance.choice(list(Fault)) if nr % FIFTH == 0 else Fault.NONE
    if args.proxy:  # by chance: each fifth could be the same question of a pilot, again and again
        chance = random.Random(args.seed)
        return lambda _: Fault.LOST if chance.random() < 1 / FIFTH else Fault.NONE
    return None


def killed(
    seed: int,
    kills: int,
    jobs: int,
    *,
    network: Callable[[int], Fault] | None,
    postgres: bool = False,
    only: Sequence[str] = (),
) -> Iterator[Figure]:
    """Jobs with one output each, and a kill -9 every now and then. On PostgreSQL there are two
    dispatchers: each is killed, or stopped for a while, and so is the server; and its disk is full
    for a while, where we may make a small one. `only` these kinds, if it says any."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounted()) if postgres and os.geteuid() == 0 else None
        full = FullDisk(disk, chance) if disk is not None else None
        server = None
        if postgres:
            settings = SETTINGS if disk is not None else ()
            folder = disk / "postgres" if disk is not None else None
            server = stack.enter_context(Postgres(*settings, folder=folder))
        rig = stack.enter_context(
            Rig(
                heartbeat_s=HEARTBEAT_S,
                cores=2,
                postgres=server,
                dispatchers=2 if postgres else 1,
                **SITE,
            )
        )
        proxy = stack.enter_context(Proxy(rig.port, network)) if network else None
        if proxy is not None:
            rig.through(proxy.url)
        began = time.monotonic()
        expected = submitted(rig, jobs, chance)
        kinds = _kill_in_turn(rig, chance, kills, list(expected), full, only)
        if full is not None:
            expected |= full.jobs(rig)
        states = rig.client.wait(list(expected), 180).states
        took = time.monotonic() - began
        leftovers = settled(rig)
        found = [*history.faults(rig, list(expected), expected), *leftovers]
        if full is not None:
            found += full.wrong
            if full.answers and not full.answers[REFUSED]:
                found.append("the disk was never so full that a dispatcher said so")
        ended = dict(history.attempts(rig))
        _tell(rig, found)
    how = f"{kinds}; attempts {ended}; {took:.0f} s"
    if full is not None and full.answers:
        how += f"; answers on a full disk {dict(full.answers)}, the server ended {full.ended} times"
    if proxy is not None:
        del proxy.faults[Fault.NONE]
        how += f"; of {proxy.requests} requests: { ({str(one): n for one, n in proxy.faults.items()}) }"
    name = "chaos: network, " if proxy else "chaos: "
    name += "PostgreSQL, two dispatchers, " if postgres else ""
    yield figure(f"{name}jobs finished", sum(state == "finished" for state in states.values()),
                 peer=len(states), at_least=1, seed=seed, note=how)  # fmt: skip
    yield figure(f"{name}faults", len(found), at_most=0, seed=seed, note="; ".join(found[:5]))


def stopped(seed: int) -> Iterator[Figure]:
    """The dispatcher stands still for three leases while payloads run: nobody loses one."""
    chance = random.Random(seed)
    with Rig(heartbeat_s=HEARTBEAT_S, cores=4, **SITE) as rig:
        spans = [chance.uniform(0.5, 2.5) * LEASE_S for _ in range(8)]
        jobs = rig.client.submit(
            [null_job(nr, command=f"sleep {span:.2f}") for nr, span in enumerate(spans)]
        ).job_ids
        rig.start_edge()
        until(lambda: _running(rig) >= len(jobs) // 2, 30, "jobs run")
        rig.dispatcher.signal(signal.SIGSTOP)
        time.sleep(3 * LEASE_S)
        rig.dispatcher.signal(signal.SIGCONT)
        states = rig.client.wait(jobs, 60).states
        leftovers = settled(rig)
        ended = history.attempts(rig)
        _tell(rig, leftovers)
    good = sum(state == "finished" for state in states.values())
    yield figure("chaos: stopped dispatcher, jobs finished", good, peer=len(jobs), at_least=1,
                 seed=seed, note="; ".join(leftovers))  # fmt: skip
    yield figure("chaos: stopped dispatcher, attempts", sum(ended.values()), peer=len(jobs),
                 at_most=1, seed=seed, note=f"{dict(ended)}")  # fmt: skip


def submitted(rig: Rig, jobs: int, chance: random.Random) -> dict[int, bytes]:
    """Short jobs; what the output of each must be."""
    words = [f"{nr} {chance.getrandbits(64):x}\n" for nr in range(jobs)]
    specs = [
        null_job(
            nr,
            command=f"sleep {chance.uniform(0.05, 0.4):.2f}; printf '{word[:-1]}\\n' > out.txt",
            outputs=[{"name": "out.txt"}],
            environment={"AILURUS_RIG": rig.mark},
        )
        for nr, word in enumerate(words)
    ]
    job_ids = rig.client.submit(specs).job_ids
    return dict(zip(job_ids, (word.encode() for word in words), strict=True))


def _kill_in_turn(
    rig: Rig,
    chance: random.Random,
    kills: int,
    jobs: list[int],
    full: FullDisk | None,
    only: Sequence[str],
) -> dict[str, int]:
    """A kill every second or so while jobs are left; how many of each kind."""
    kinds = ["pilot", "edge", "dispatcher"]
    if rig.postgres is not None:
        kinds += ["server", "stopped dispatcher"]
    if full is not None:
        kinds.append("full disk")
    kinds = [kind for kind in kinds if not only or kind.replace(" ", "-") in only]
    if not kinds:
        raise ValueError(f"none of {', '.join(only)} can happen here: a full disk needs root")
    done = dict.fromkeys(kinds, 0)
    edge = rig.start_edge()
    until(rig.pilots, 30, f"a pilot runs (see {edge.log})")
    for nr in range(kills):
        time.sleep(chance.uniform(0.2, 1.6))
        kind = kinds[nr % len(kinds)]
        if kind == "pilot":
            until(lambda: rig.pilots() or not _left(rig, jobs), 60, "a pilot runs")
            pilots = rig.pilots()
            done["pilot"] += bool(pilots) and _kill(chance.choice(pilots))
        elif kind == "edge":
            edge.kill()
            edge = rig.start_edge()
            done["edge"] += 1
        else:
            done[kind] += 1
            which = chance.randrange(len(rig.dispatchers))
            away_s = chance.uniform(0.0, 1.0)
            if kind == "full disk" and full is not None and rig.postgres is not None:
                full.happen(rig, rig.postgres)
            elif kind == "server" and rig.postgres is not None:
                rig.postgres.ask("kill")
                time.sleep(away_s)
                rig.postgres.start()
            elif kind == "stopped dispatcher":
                rig.dispatchers[which].signal(signal.SIGSTOP)
                time.sleep(2 * LEASE_S * away_s)
                rig.dispatchers[which].signal(signal.SIGCONT)
            else:
                rig.dispatchers[which].kill()
                time.sleep(away_s)
                rig.serve(which)
    return done


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _left(rig: Rig, jobs: list[int]) -> bool:
    return any(state != "finished" for state in rig.client.wait(jobs, 0).states.values())


def _running(rig: Rig) -> int:
    return rig.client.overview().states.get("running", 0)


def _tell(rig: Rig, found: list[str]) -> None:
    """Faults in full, and the directory left for a look."""
    if found:
        rig.keep = True
        sys.stderr.write("".join(f"  {one}\n" for one in found[:40]))
