"""Merge ntuples of simulated events (layout: dimuons.py) into one file.

    merge.py --out merged.root mc_1.root mc_2.root …

Files are copied in pieces, so that memory does not grow with their number. Nothing is merged unless
each file holds as many events as the generation jobs in it say, and no seed comes twice (its events
would be counted twice). Progress goes to stdout; its last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from dimuons import EVENTS, JOBS, Array, Writer, chunks, writing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the ROOT file to write")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()

    start = time.perf_counter()
    home: dict[int, Path] = {}  # seed: the file it is in
    n_events, weighted = 0, 0.0
    with writing(args.out) as merged:
        for n_files, path in enumerate(args.files, 1):
            jobs = jobs_of(path, home)
            n_events += copy_events(path, int(jobs["events"].sum()), merged)
            merged.add_jobs(jobs)
            weighted += float((jobs["cross_section_pb"] * jobs["events"]).sum())
            print(f"files {n_files}/{len(args.files)}", flush=True)
    summary = {
        "files": len(args.files),
        "events": n_events,
        "cross_section_pb": round(weighted / n_events, 1),
        "seconds": round(time.perf_counter() - start, 3),
    }
    print(json.dumps(summary))


def jobs_of(path: Path, home: dict[int, Path]) -> dict[str, Array]:
    """The generation jobs of a file, whose seeds are added to `home`."""
    pieces = list(chunks(path, "jobs", list(JOBS)))
    if not pieces:
        raise SystemExit(f"error: {path}: holds no generation job: is it simulated?")
    jobs = {name: np.concatenate([piece[name] for piece in pieces]) for name in JOBS}
    for seed in jobs["seed"].tolist():
        if seed in home:
            raise SystemExit(f"error: seed {seed} is in {home[seed]} and again in {path}")
        home[seed] = path
    return jobs


def copy_events(path: Path, expected: int, merged: Writer) -> int:
    n_events = 0
    for events in chunks(path, "events", list(EVENTS)):
        merged.add_events(events)
        n_events += len(events["mass"])
    if n_events != expected:
        raise SystemExit(f"error: {path}: holds {n_events} events, its jobs made {expected}")
    return n_events


if __name__ == "__main__":
    main()
