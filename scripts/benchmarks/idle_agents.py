"""Many agents in one process that run nothing: each payload ends as soon as it is asked for.

    idle_agents.py NODE,NODE… PROGRAM… --agent --head ADDRESS:PORT --key-file FILE

A pilot starts it as what starts its agents (`pilot.allocation.options.start`).
"""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

from ailurus import __version__
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.resources import Resources
from pilot.agents import messages as a
from pilot.agents.agent import connect
from pilot.agents.key_file import read_key
from pilot.agents.wire import Wire
from pilot.node_ports import NOTHING
from pilot.ports import ProcessEnd

HAVE = Resources(cores=4, memory_mb=8192, disk_mb=8192)


def answer(message: a.ToAgent) -> a.FromAgent | None:
    """What such an agent says to that."""
    if isinstance(message, a.Welcome):
        return a.Joined(HAVE, (), (), f"/nowhere/{message.name}", Hardware())
    if isinstance(message, a.Prepare | a.Stand):
        return a.Prepared(message.ticket)
    if isinstance(message, a.StartAll):
        ends = [
            a.TaskOver(key, ProcessEnd(key=key, cpu_s=0.001), NOTHING, NOTHING)
            for key, _ in message.tasks
        ]
        return a.TasksOver(ends)
    if isinstance(message, a.Begin):
        return a.ProcessOver(message.key, ProcessEnd(key=message.key))
    return None


def main(names: list[str], argv: list[str]) -> None:
    """Until the pilot has closed all connections."""
    head = argv[argv.index("--head") + 1]
    key = read_key(Path(argv[argv.index("--key-file") + 1]))
    poll = select.epoll()
    wires: dict[int, Wire] = {}
    # An agent beats once it has joined; one that speaks before is lost, and started anew.
    joined: set[int] = set()
    for name in names:
        wire = connect(head, key, lambda: None)
        wire.send(a.Arrived((name,), __version__))
        wires[wire.link.fileno()] = wire
        poll.register(wire.link, select.EPOLLIN)
    beat, beat_at = 0, 0.0
    while wires:
        for fd, _ in poll.poll(0.1):
            bodies = wires[fd].receive()
            if bodies is None:
                wires.pop(fd).close()
                joined.discard(fd)
                continue
            said = [answer(message) for body in bodies for message in a.to_agent(body)]
            if told := [one for one in said if one is not None]:
                wires[fd].send(*told)
                joined.add(fd)
        if time.monotonic() >= beat_at:
            beat, beat_at = beat + 1, time.monotonic() + 1.0
            for fd in joined:
                wires[fd].send(a.Beat(beat))


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
