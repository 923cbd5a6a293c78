"""The nodes of a pilot: this machine, or with `--head` all of the allocation that it runs in.

On each other node an agent is started, which may come when the pilot serves already, may be lost
and may come again. What it has joins the pilot's slots; when it is lost these go, and the attempts
that hold some of them end, to be tried again elsewhere.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from ailurus.logs import Log
from ailurus.loops import Loops
from ailurus.protocol.resources import Resources, Room
from ailurus.protocol.units import duration_s
from pilot.agents import scratch_dir
from pilot.agents.allocation import allocation_of
from pilot.agents.chores import Chores, apart
from pilot.agents.head import Head, Welcoming
from pilot.agents.lease import LeaseTerms
from pilot.agents.link import new_key
from pilot.agents.messages import Joined
from pilot.agents.remote import RemoteNode, lost
from pilot.agents.starting import Starting, agent_command
from pilot.clock import Clock
from pilot.node.gpus import Gpu
from pilot.node.local import LocalNode
from pilot.node.machine import Inventory, hardware_with, pinned, total_of
from pilot.node.sampler import Sampler
from pilot.node.slots import Slots
from pilot.node.streams import Streams
from pilot.node_ports import Allocation, Node, Share
from pilot.ports import Container, Spawner
from pilot.process.cgroup import Groups
from pilot.rsh.doors import Doors
from pilot.site import Site, SlotChoice
from pilot.workdir import scratch

ROOM_TO_END_S = 30.0
"""Before the batch system ends the job, so that reports still leave."""
_log = Log("pilot.agents.allocated")


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a head has in common with its agents."""

    site: Site
    slot: SlotChoice
    container: Container
    spawner: Spawner
    groups: Groups | None
    directory: Path
    """The pilot's, which all nodes see."""
    clock: Clock


class Allocated:
    """The nodes of an allocation, with this machine as the first."""

    def __init__(self, around: Surroundings, allocation: Allocation) -> None:
        """Raises AilurusError for an allocation that is not understood, OSError if nothing can be
        listened on."""
        self._around, self._allocation = around, allocation
        self._shares = allocation.nodes()
        self.loops = Loops(Log("pilot.serve"), clock=around.clock.monotonic)
        here = self._shares[0]
        _log.info("allocation", nodes=len(self._shares), here=here.name)
        self.node = LocalNode(
            around.container,
            around.spawner,
            Sampler(around.clock),
            around.groups,
            name=here.name,
            address=here.address,
            streams=Streams(around.directory / "streams", self.loops),
            doors=Doors(self.loops),
        )
        self.nodes: dict[str, Node] = {here.name: self.node}
        self.slots = Slots(clock=around.clock)
        self._head = self._listening() if len(self._shares) > 1 else None

    def lifetime_s(self) -> float | None:
        """How long the pilot may serve; None: the batch system does not say."""
        left = self._allocation.seconds_left()
        return None if left is None else max(0.0, left - ROOM_TO_END_S)

    def offered(
        self, total: Resources, seen: Inventory, gpus: Sequence[Gpu], seconds_left: float | None
    ) -> tuple[Slots, Room]:
        """The slots, which have this machine's now, and the room of all nodes: of those that are
        not there yet as far as the batch system tells of them. `total`: of this machine."""
        total = within(total, self._shares[0])
        pin = pinned(self._around.site, total, seen)
        gpus = gpus[: total.gpus + len(total.gpu_parts)]
        self.slots.join(self.node.name, total, pin, gpus)
        self.slots.describe(self.node.name, hardware_with(seen, gpus))
        self.slots.await_nodes(share.name for share in self._shares[1:])
        each = [total, *(within(total, share) for share in self._shares[1:])]
        return self.slots, Room.over(Counter(each), seconds_left=seconds_left)

    def serve(self) -> None:
        """Hear agents from now on. Raises RuntimeError if the system gives no thread."""
        if (head := self._head) is not None:
            self.loops.thread("agents", head.run, over=lambda: head.closed)

    def close(self) -> None:
        """Let all agents end."""
        if self._head is not None:
            self._head.close()

    def _listening(self) -> Head:
        around, key = self._around, new_key()
        chosen = around.site.pilot.agents
        probe = around.directory / "probe"
        text = secrets.token_hex(16)
        probe.write_text(text, "ascii")
        welcoming = Welcoming(
            key=key,
            shares=self._shares[1:],
            site=Site(
                site=around.site.site,
                software=around.site.software,
                container=around.site.container,
                limits=around.site.limits,
                pilot=around.site.pilot,
            ),
            gpus=around.slot.most_gpus,
            terms=LeaseTerms(beat_s=duration_s(chosen.beat), lease_s=duration_s(chosen.lease)),
            probe=(str(probe), text),
        )
        head = Head(
            welcoming,
            around.container,
            self._joined,
            self._left,
            self._shares[0].address,
            around.clock,
        )
        key_file = around.directory / "agents.key"
        chores = Chores("starting", self.loops)
        # There is no agent here, but there may have been one of another allocation.
        chores.add(partial(scratch_dir.sweep, Path(chosen.scratch or scratch(os.environ))))
        head.starting = Starting(
            self._allocation,
            around.spawner,
            agent_command(head.at, key_file, chosen.scratch, os.environ),
            key_file,
            key,
            around.directory / "agents.log",
            chores.add,
        )
        # They start while the pilot registers.
        names = [share.name for share in welcoming.shares]
        head.starting.look(names, around.clock.monotonic())
        return head

    def _joined(self, node: RemoteNode, joined: Joined) -> None:
        share = next(share for share in self._shares if share.name == node.name)
        seen = joined.resources
        sharing = self._around.site.pilot.gpus
        total = within(total_of(self._around.slot, seen, joined.gpus, sharing), share)
        whole = total.cores == seen.cores == len(joined.cpus)
        pin = joined.cpus if self._around.site.pilot.pin and whole else ()
        self.nodes[node.name] = node
        self.slots.describe(node.name, joined.hardware)
        self.slots.join(node.name, total, pin, joined.gpus)

    def _left(self, name: str, why: str) -> None:
        for attempt in self.slots.leave(name) if name in self.nodes else ():
            with apart("loss_not_taken", name):
                attempt.lose(name, lost(name, why))


def allocated(around: Surroundings) -> Allocated:
    """Raises AilurusError or OSError, as `Allocated` does."""
    chosen = around.site.pilot.allocation
    return Allocated(around, allocation_of(chosen.kind, chosen.options))


def within(total: Resources, share: Share) -> Resources:
    """What there is for jobs on a node of which the batch system gave this."""
    given = Resources(
        cores=total.cores if share.cores is None else share.cores,
        memory_mb=total.memory_mb if share.memory_mb is None else share.memory_mb,
        disk_mb=total.disk_mb,
        gpus=total.gpus if share.gpus is None else share.gpus,
        gpu_share=total.gpu_share,
        gpu_parts=total.gpu_parts,
    )
    return total.at_most(given)
