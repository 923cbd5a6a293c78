"""The edge alone in a process, so that its CPU time and memory are its own: `simsite` answers by a
pipe, as a batch command would. Frames are a length in four bytes, then so many bytes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from ailurus import logs
from harvester_edge.daemon import cycle
from tests.rig import simulated_site

STDIN, STDOUT = sys.stdin.buffer, sys.stdout.buffer


def send(to: BinaryIO, *parts: bytes) -> None:
    to.writelines(len(part).to_bytes(4, "big") + part for part in parts)
    to.flush()


def receive(of: BinaryIO) -> bytes:
    return of.read(int.from_bytes(of.read(4), "big"))


def main() -> None:
    """Cycle whenever the parent says so, and say what it cost."""
    logs.configure(Path(os.devnull), level="error")
    root, scaling, poll = msgspec.json.decode(
        sys.argv[1], type=tuple[str, dict[str, int | str], str]
    )
    now = 0.0

    def serve(what: str, asked: bytes) -> bytes:
        send(STDOUT, what.encode(), asked)
        return receive(STDIN)

    edge = simulated_site.edge(
        simulated_site.site(Path(root), scaling, poll=poll), serve, lambda: now
    )
    while said := receive(STDIN):
        now = float(said)
        cpu = time.process_time()
        cycle(edge)
        cost = time.process_time() - cpu
        send(STDOUT, b"cycled", f"{cost} {len(edge.workers)}".encode())


if __name__ == "__main__":
    main()
