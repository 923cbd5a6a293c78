"""A site file as one type. From it come the reader, the JSON Schema and (in `lint`) all faults.

The edge reads all of it; the pilot reads `storage`, `software`, `container`, `limits` and its slot.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ailurus.paths import expanded
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.resources import WHOLE, Room, least_share
from ailurus.protocol.units import duration_s, size_mb
from harvester_edge.fields import (
    AbsolutePath,
    Duration,
    Number,
    Options,
    Percent,
    Positive,
    QueueName,
    Registry,
    Sha256,
    Share,
    Size,
    Slug,
    Text,
    Url,
)
from harvester_edge.ports import MAX_NODES
from harvester_edge.site_machine import GpuCount, GpusPart, MachinePart
from harvester_edge.site_storage import Storage


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a site file: a key that is not here is an error."""


class Polling(_Part, frozen=True, kw_only=True):
    """How often and how patiently the batch system is asked. Unset: what suits its kind."""

    poll: Duration | None = None
    settle: Duration | None = None
    """How long after an unclear submission its absence begins to mean something."""
    grace: Duration | None = None
    """How long a worker is absent from successful listings before it is lost."""
    command_timeout: Duration = "60s"
    max_array: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    """Workers that one submission may have; more are submitted by several (Slurm's MaxArraySize -
    1, PBS's max_array_size)."""


class Backend(_Part, frozen=True, kw_only=True):
    """The batch system."""

    kind: Annotated[str, Meta(min_length=1, max_length=50)]
    limits: Polling = Polling()
    options: Options = {}
    """What only this kind knows; each key is checked."""


class PandaPart(_Part, frozen=True, kw_only=True):
    """The queue is a PanDA server's, to which this edge is an instance of Harvester. The edge's
    token is one of the server's pilots or production role."""

    harvester_id: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,49}(?!\n)$",
             description="a name of at most 50 letters, digits and _ . -", examples=["edge-here"]),
    ]  # fmt: skip
    """The instance's name there. No two edges may have the same."""
    pilot_token_file: AbsolutePath
    """The token of its pilots, as a node sees it."""
    origin: (
        Annotated[
            str,
            Meta(pattern=r"^[\x21-\x7e]{1,200}(?!\n)$",
                 description="a word of plain characters, at most 200", examples=["atlas:pilot"]),
        ]
        | None
    ) = None  # fmt: skip
    """VO and role that tokens are for, such as `atlas:pilot`."""
    dialect: Literal["v1", "legacy"] | None = None
    """Unset: the server is asked which it speaks."""
    run_mode: Literal["self", "slave"] = "self"
    """Harvester's words. `self`: as many workers as activated jobs can use. `slave`: as many as the
    server's commands ask for."""
    mcore: Positive = 8
    """Cores of a job whose resource type says only that it has several."""
    label: Annotated[
        str,
        Meta(pattern=r"^[a-z_0-9]{1,20}(?!\n)$",
             description="a word of at most 20 lower-case letters, digits and _", examples=["managed"]),
    ] = "managed"  # fmt: skip
    """Which jobs pilots ask for (prodSourceLabel)."""


class Dispatcher(_Part, frozen=True, kw_only=True):
    """Where the queue is. The token has the scope `ailurus.edge:SITE`."""

    url: Url
    token_file: AbsolutePath
    pilot_url: Url | None = None
    """What pilots call it, where that differs."""
    ca: AbsolutePath | None = None
    """Who may sign its certificate, in PEM; a file that nodes see too."""
    pin: Sha256 | None = None
    """SHA-256 of its certificate, where nobody signs it."""
    panda: PandaPart | None = None
    """It is none of ours but a PanDA server."""


class Paths(_Part, frozen=True, kw_only=True):
    """Where things lie."""

    work: AbsolutePath
    """Pilots' work directories and their spool, as a node sees them."""
    state: AbsolutePath
    """The edge's book, on a disk of the edge's machine."""
    shared: AbsolutePath | None = None
    """What nodes read and write of the edge's: workers' directories and logs, the site as pilots
    are told it, the pilot. Unset: `state`, which nodes must then see."""


class Slot(_Part, frozen=True, kw_only=True):
    """A shape of worker that this site starts, and the queue that it serves."""

    queue: QueueName
    cores: Positive
    memory: Size
    disk: Size
    walltime: Duration
    gpus: GpuCount = 0
    nodes: Annotated[int, Meta(ge=1, le=MAX_NODES)] = 1
    """Nodes of one allocation; what else stands here is of one node."""
    pilots: Literal["per_node", "head"] = "per_node"
    """`per_node`: each node of an allocation has a pilot of its own, which counts as one. `head`:
    one pilot, on the first node, runs jobs on all of them."""
    machine: MachinePart | None = None
    """What kind of machine its nodes are; unset: the first pilot shows it."""
    max_total: Number | None = None
    """Of this slot, beside the site's own."""
    extra: Options = {}
    """What this slot changes of `backend.options`: another partition, say."""

    @property
    def walltime_s(self) -> int:
        return int(duration_s(self.walltime))

    @property
    def hardware(self) -> Hardware | None:
        """What kind of machine its workers have; None: the file does not say."""
        return None if self.machine is None else self.machine.hardware(self.gpus)

    @property
    def together(self) -> int:
        """Workers of one allocation, which start together or not at all."""
        return 1 if self.pilots == "head" else self.nodes

    @property
    def nodes_each(self) -> int:
        """Nodes of one worker."""
        return self.nodes // self.together

    def room(self, gpu_share: int = 0) -> Room:
        """What a new worker offers to jobs: it keeps some of its walltime to start and to end
        well. `gpu_share`: the least share of a GPU that a job takes."""
        return Room(
            cores=self.cores,
            memory_mb=size_mb(self.memory),
            disk_mb=size_mb(self.disk),
            gpus=int(self.gpus),
            gpu_share=gpu_share if self.gpus else 0,
            gpu_parts=(round(self.gpus * WHOLE),) if 0 < self.gpus < 1 else (),
            nodes=self.nodes_each,
            seconds_left=self.walltime_s - min(60.0, self.walltime_s / 10),
        )


class QueuedRatio(_Part, frozen=True, kw_only=True):
    """How many may wait beside those that are active, and the number that may wait in any case."""

    of_running: Share
    floor: Positive = 1


class Budget(_Part, frozen=True, kw_only=True):
    """Node-hours that the site's workers may use in a period of UTC: whole nodes times time."""

    node_hours: Annotated[float, Meta(gt=0, le=1e9)]
    period: Literal["day", "month", "year"] = "month"
    stop_at: Percent = "100%"


class Scaling(_Part, frozen=True, kw_only=True):
    """How many workers."""

    max_total: Number
    max_queued: Number = 10
    """Asked for and not yet registered."""
    queued_ratio: QueuedRatio | None = None
    """Lowers `max_queued` where few are active: a queue that does not move is not filled."""
    per_cycle: Number = 10
    max_cores: Positive | None = None
    """Of all workers together; so is `max_memory`."""
    max_memory: Size | None = None
    budget: Budget | None = None
    attenuation: Annotated[float, Meta(ge=1, le=100)] = 1
    """Ask for one part in so many of the demand a cycle: short bursts are over before pilots
    start."""
    floor: Number = 0
    """Workers kept whatever the demand."""
    idle_exit: Duration = "5m"
    """A pilot without work for so long ends by itself."""


class Policy(_Part, frozen=True, kw_only=True):
    """What the edge does on its own."""

    status: Literal["online", "paused", "drain"] = "online"
    start_grace: Duration = "5m"
    """A worker that runs for so long without registering never will."""
    max_queue_age: Duration = "2d"
    """A worker that waits longer is cancelled, and could not register any more."""
    max_shrink: Percent = "50%"
    """The share of its workers that a lowered limit may drain without more ado."""
    exclude_nodes: bool = False
    """Have the batch system (Slurm) avoid nodes that fail one job after the other. Only where
    pilots see their node under the batch system's name for it."""
    keep: Duration = "3d"
    """How long logs and records of ended workers are kept."""


class Container(_Part, frozen=True, kw_only=True):
    """How payloads are kept apart. `bare` allows jobs to run without."""

    default: Annotated[
        str,
        Meta(pattern=r"^[a-z][a-z0-9_-]*(?!\n)$",
             description="a plugin's name: lower-case letters, digits, _ and -", examples=["bubblewrap"]),
    ] = "auto"  # fmt: skip
    bare: bool = False
    network: bool = True
    """Whether a job that says `network: true` gets the node's network, its loopback included."""
    user_namespaces: bool = False
    """Whether payloads may make user namespaces of their own (nested containers), and mounts in
    them."""
    show: tuple[AbsolutePath, ...] = ()
    """More paths that payloads see, read-only, where a node has them: `/etc/condor/config.d`
    say."""
    images: tuple[AbsolutePath, ...] = ()
    """Directories beneath which the images of jobs lie: SIF files and root file systems."""
    apptainer: AbsolutePath | None = None
    """The directory of Apptainer's command, if it is in no usual one."""
    registries: tuple[Registry, ...] = ()
    """Images that jobs may name by reference. A node fetches each once."""
    cache: AbsolutePath | None = None
    """In which directory a node keeps them, those of each user apart; unset: beside its pilots'
    directories."""
    cache_size: Size = "50GiB"
    """Images used least go when there is more."""
    cache_age: Duration = "30d"
    """So long after its last use an image goes."""


class PayloadLimits(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """What the pilot holds each job to, beside what the job asks for. Unset: the pilot's own."""

    output: Size | None = None
    """One output file."""
    stdout: Size | None = None
    """stdout and stderr of a payload together."""
    inputs: Size | None = None
    """All inputs of a job together."""
    looping: Duration | None = None
    """No file touched for so long: the payload loops."""
    staging: Duration | None = None
    """One file's transfer."""
    grace: Duration | None = None
    """Between TERM and KILL."""


class AllocationPart(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """How a pilot with several nodes learns of them, and starts its agents there."""

    kind: Annotated[str, Meta(max_length=50)] = ""
    """Of the plugin; empty: the batch system that the pilot finds itself in."""
    options: Options = {}
    """What only this kind knows."""


class AgentsPart(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """The agents of a pilot with several nodes."""

    beat: Duration | None = None
    """How often pilot and agents hear of each other (1 s)."""
    lease: Duration | None = None
    """An agent that hears nothing for so long kills its payloads, and a little later they are given
    out again (4 s)."""
    scratch: AbsolutePath | None = None
    """Where each node has room for the /tmp of payloads; the batch system says it otherwise."""


class PilotPart(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """How pilots behave here."""

    file: AbsolutePath | None = None
    """What `scripts/build-pilot` made. The edge hands copies of it to the nodes."""
    sha256: Sha256 | None = None
    """What the file must be."""
    program: AbsolutePath | None = None
    """Or a pilot that nodes can start, in a venv say. Without either: the one installed beside the
    edge."""
    pin: bool = False
    """Bind payloads to CPUs: only where no other pilot shares the node."""
    allocation: AllocationPart = AllocationPart()
    """For slots with `pilots: head`."""
    cgroups: Literal["auto", "on", "off"] = "auto"
    """Whether the kernel limits the memory of payloads in cgroups of their own: `auto`, where those
    were delegated to the pilot; `on`, wherever the pilot can make them, as root say; `off`."""
    agents: AgentsPart = AgentsPart()
    """Likewise for slots with `pilots: head`."""
    gpus: GpusPart = GpusPart()


class RelayPart(_Part, frozen=True, kw_only=True):
    """`harvester-edge relay`, for nodes without a route out."""

    token_file: AbsolutePath
    """Its own token, with the scope `ailurus.relay:SITE`."""
    url: Url | None = None
    """What nodes call it: https://HOST:PORT. For `network: relay`."""
    listen: Annotated[
        str,
        Meta(
            pattern=r"^([0-9.]+|\[[0-9a-fA-F:]+\]):\d{1,5}(?!\n)$",
            description="ADDRESS:PORT",
            examples=["0.0.0.0:8443"],
        ),
    ] = "0.0.0.0:8443"
    outage_tolerance: Duration = "4h"
    """How long the dispatcher may be out of reach before it gives pilots' jobs to others."""
    prefetch: Number = 1
    """Jobs kept ready at the relay for each that runs."""


class Site(_Part, frozen=True, kw_only=True):
    """A site: one batch system, one edge, some slots."""

    schema: Literal[1]
    site: Slug
    description: Text = ""
    contacts: tuple[Text, ...] = ()
    extends: Text = ""
    """A profile beside this file, in site_configs/profiles/, or a path."""
    confirm: tuple[Text, ...] = ()
    """Keys whose values somebody at the site must confirm: `lint` lists them."""
    backend: Backend
    dispatcher: Dispatcher
    paths: Paths
    slots: Annotated[dict[Slug, Slot], Meta(min_length=1, max_length=100)]
    scaling: Scaling
    policy: Policy = Policy()
    credentials: Annotated[dict[Slug, AbsolutePath], Meta(max_length=20)] = {}
    """Files that somebody renews: tokens, proxies, keys of storage. The edge copies each to where
    nodes read it; the options of `storage` name one as `credential:NAME`."""
    storage: Storage = Storage()
    software: tuple[AbsolutePath, ...] = ()
    """Shown to payloads, read-only."""
    container: Container = Container()
    limits: PayloadLimits = PayloadLimits()
    pilot: PilotPart = PilotPart()
    network: Literal["direct", "relay", "spool"] = "direct"
    """How pilots reach the dispatcher: themselves, through the relay, or through the relay and a
    directory in `paths.shared`."""
    relay: RelayPart | None = None

    def room(self, slot: str) -> Room:
        """What a new worker of a slot offers to jobs."""
        return self.slots[slot].room(least_share(self.pilot.gpus.share))

    def nodes_each(self, slot: str) -> int:
        """Nodes of a worker of a slot; of one that the file does not know (any more), the most."""
        known = {name: one.nodes_each for name, one in self.slots.items()}
        return known.get(slot) or max(known.values())

    @property
    def tag_prefix(self) -> str:
        """What the tags of the site's orders begin with, in the batch system."""
        return "a" + hashlib.sha256(self.site.encode()).hexdigest()[:4]

    @property
    def state(self) -> Path:
        return Path(expanded(self.paths.state))

    @property
    def credentials_directory(self) -> Path:
        """Where pilots read the site's credentials."""
        return self.shared / "credentials"

    @property
    def relay_state(self) -> Path:
        """What the relay keeps: its key, and what it must not forget."""
        return self.state / "relay"

    @property
    def relay_spool(self) -> Path:
        """Where pilots leave requests for it."""
        return self.shared / "relay-spool"

    @property
    def outage_s(self) -> float | None:
        """How long pilots may be silent; None: as long as all others."""
        if self.network == "direct" or self.relay is None:
            return None
        return duration_s(self.relay.outage_tolerance)

    @property
    def shared(self) -> Path:
        """What the edge shares with the nodes."""
        return Path(expanded(self.paths.shared or self.paths.state))


def percent(text: str) -> float:
    """`50%` as 0.5."""
    return int(text.rstrip("%")) / 100


def json_schema() -> dict[str, Any]:
    """The schema for editors: `site_configs/site.schema.json`."""
    import msgspec

    from ailurus.schema import even

    schema = even(msgspec.json.schema(Site))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A site of an Ailurus edge",
        **schema,
    }


if __name__ == "__main__":
    import json

    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))  # noqa: T201
