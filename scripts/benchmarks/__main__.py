"""`scripts/bench [NAME…]`: run benchmarks, a JSON line a figure, then a table."""

from __future__ import annotations

import importlib
import signal
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace

from tests.rig.figure import Figure, say, table

NAMES = {
    "latency": "a null job from submit to finished seen, beside the bare chain",
    "dispatcher": "heartbeats and acquires by wrk, beside a bare Starlette; the load of ATLAS",
    "dialects": "native, legacy and v1, plain and TLS, beside a bare Starlette; ATLAS's load in each",
    "run4": "ten times ATLAS's load, and more until something gives",
    "submit": "10,000 jobs in one request, beside bare decode and insert",
    "pilot": "start, exit, memory, supervision, 1,000 jobs through one pilot",
    "packing": "2,000 × /bin/true, ragged and mixed loads, beside the bare loop and HyperQueue",
    "nodes": "payloads on three nodes of Slurm, one of them lost, beside a bare head with agents and others",
    "slots": "which of 100,000 that wait starts next, and on which of 256 nodes",
    "container": "12 payloads at once in an image, beside bare bubblewrap and Apptainer",
    "chaos": "kill -9 of pilot, edge and dispatcher in turn while jobs run; --nodes: of machines",
    "registration": "kill -9 around upload and registration of outputs in a real Rucio",
    "console": "1,000 open pages, 20 changes a second",
    "edge": "the edge at 10,000 and 100,000 simulated workers; 0 to 10,000 and back; its caps by chance",
    "fuzz": "requests by chance at every endpoint, native and PanDA's, by all kinds of callers",
    "parsers": "each parser of text that others write, driven by atheris",
    "herd": "10,000 pilots come back at once after a kill -9 of the dispatcher",
    "schema": "schemathesis over the OpenAPI description, all phases, in three roles",
    "relay": "a relay with 10,000 pilots",
    "scale": "100,000 jobs queued beside 1,000, and many pilots",
    "data": "files by http(s), root, S3 and Rucio, beside a bare loop and the tools",
    "items": "a million items in one job: uploaded, leased, finished, and looked at",
    "outage": "storage (--catalogue: Rucio) away for ten minutes while jobs store their outputs",
    "tasks": "a million items of a task: made into jobs, finished; and a thousand tasks at rest",
    "dag": "layers, a fan and a chain of dependent jobs: submitted, finished, released",
}
LONGEST_S = 900  # no benchmark takes longer but for very many kills; one that does is stuck


def main() -> int:
    """0: all targets met."""
    args = _arguments()
    figures: list[Figure] = []
    broken = []
    for name in args.names or NAMES:
        sys.stderr.write(f"bench {name}: {NAMES[name]}\n")
        began = time.monotonic()
        signal.alarm(max(LONGEST_S, 6 * args.kills))
        try:
            for one in importlib.import_module(f"benchmarks.{name}").run(args):
                say(one)
                figures.append(one)
        except Exception:  # noqa: BLE001 -- one that breaks does not cost the others
            broken.append(name)
            sys.stderr.write(f"bench {name} broke:\n{traceback.format_exc()}\n")
        finally:
            signal.alarm(0)
        sys.stderr.write(f"bench {name}: {time.monotonic() - began:.0f} s\n")
    sys.stderr.write(f"\n{table(figures)}\n" if figures else "")
    return 1 if broken or any(one.met is False for one in figures) else 0


def _arguments() -> Namespace:
    lines = "\n".join(f"  {name:<12}{text}" for name, text in NAMES.items())
    parser = ArgumentParser(
        prog="scripts/bench",
        description="Measure ours beside its peers, in one run on this machine.",
        usage="scripts/bench [NAME…] [options]\n\n" + lines,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []])
    parser.add_argument("--seed", type=int, default=1, help="of everything that is chance")
    parser.add_argument("--kills", type=int, default=30, help="chaos, registration: how many (30)")
    parser.add_argument(
        "--jobs",
        type=int,
        help="chaos: how many (500); scale: queued (100,000); dag: in all (100,000); items, tasks: (1,000,000)",
    )
    parser.add_argument(
        "--times", type=float, default=10, help="run4: ATLAS's load so many times (default 10)"
    )
    parser.add_argument("--pilots", type=int, default=0, help="scale, herd: how many")
    parser.add_argument(
        "--requests", type=int, default=1_000_000, help="fuzz: how many (default 1,000,000)"
    )
    parser.add_argument(
        "--runs", type=int, default=10_000_000, help="parsers: in all (default 10,000,000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=800, help="fuzz, parsers, chaos --nodes: at most (800)"
    )
    parser.add_argument("--away", type=float, default=600, help="outage: for how long, s (600)")
    parser.add_argument("--catalogue", action="store_true", help="outage: of Rucio, not of storage")
    parser.add_argument(
        "--parts", nargs="+", default=[], metavar="PART",
        choices=["file", "http", "root", "s3", "rucio"],
        help="data: only these (file, http, root, s3, rucio)",
    )  # fmt: skip
    parser.add_argument(
        "--postgres",
        action="store_true",
        help="dispatcher, dialects, run4, scale, dag, tasks: on PostgreSQL; chaos: with two dispatchers on one",
    )
    _of_chaos(parser)
    return parser.parse_args()


def _of_chaos(parser: ArgumentParser) -> None:
    parser.add_argument("--proxy", action="store_true", help="chaos: drop a fifth of the answers")
    parser.add_argument(
        "--network", action="store_true", help="chaos: a fault of the network every fifth request"
    )
    parser.add_argument(
        "--backend", choices=["slurm", "htcondor", "standin", "local"],
        help="chaos: only kills of the edge around submissions, on this batch system",
    )  # fmt: skip
    parser.add_argument(
        "--faults", nargs="+", default=[], metavar="NAME",
        choices=["pilot", "edge", "dispatcher", "server", "stopped-dispatcher", "full-disk"],
        help="chaos: only these in turn; server, stopped-dispatcher, full-disk (as root) with "
        "--postgres",
    )  # fmt: skip
    parser.add_argument(
        "--nodes",
        action="store_true",
        help="chaos: only agents, pilots and machines of allocations of three nodes, as root",
    )
    parser.add_argument("--stop", action="store_true", help="chaos: SIGSTOP the dispatcher")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"longer than {LONGEST_S} s")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _too_long)
    sys.exit(main())
