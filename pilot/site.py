"""What the pilot reads of a site file: storage, software, container, limits, slots.

The edge reads and lints all of it; the pilot takes its own parts and ignores the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus import token_discovery
from ailurus.apart import SYSTEM, Location, look
from ailurus.paths import directory_url, discovers, expanded, expanded_options, secret_files
from ailurus.protocol import storage_defaults
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.resources import WHOLE, least_share
from ailurus.protocol.units import duration_s, lease_fault, size_bytes, size_mb
from ailurus.regular import NotRegular, settings_in
from plugins import MOVED_BY, NAMED_OPTIONS

Size = str | int
Duration = str | float | int
Options = dict[str, Any]


class Protocols(Struct, frozen=True):
    """The schemes of the site's storage for each activity, the best first."""

    read_lan: tuple[str, ...] = ()
    read_wan: tuple[str, ...] = ()
    write_lan: tuple[str, ...] = ()
    write_wan: tuple[str, ...] = ()


class Storage(Struct, frozen=True):
    """Where files may come from and go to."""

    roots: tuple[str, ...] = ()
    """Directories beneath which `file:` URLs resolve."""
    http_allow: tuple[str, ...] = ()
    """Prefixes of http URLs."""
    http_proxy: str = ""
    """What http transfers go through; no variable of the environment says it."""
    default_output: str = ""
    logs: str = storage_defaults.LOGS
    """Whose log.tgz goes there: of failed attempts, `all` or `none`."""
    allow: tuple[str, ...] = ()
    """Prefixes of the URLs that movers serve."""
    alternative_output: str = ""
    """Where an output goes that its own place does not take."""
    rse: str = ""
    """What Rucio calls this storage."""
    protocols: Protocols = Protocols()
    plugins: dict[str, str] = {}
    direct_read: bool = False
    """Whether a job may ask for the URLs of its inputs."""
    parallel: int = storage_defaults.PARALLEL
    """How many files of a job the pilot itself moves at once, and how many jobs a library moves
    files for at once."""
    # Bytes a second.
    min_speed: Size = storage_defaults.MIN_SPEED
    min_time: Duration = storage_defaults.MIN_TIME
    outage_tolerance: Duration = storage_defaults.OUTAGE_TOLERANCE
    """For how long an output is tried again whose storage does not take it now."""
    http: Options = {}
    rucio: Options = {}
    xrootd: Options = {}
    gfal2: Options = {}
    s3: Options = {}
    options: dict[str, Options] = {}
    """Of other plugins, by name."""

    def plugin(self, scheme: str) -> str:
        """The name of the plugin that moves files of `scheme`."""
        return self.plugins.get(scheme) or MOVED_BY.get(scheme, scheme)

    def options_of(self, plugin: str) -> Options:
        """What the site says to a plugin; credentials are named by the path of their file."""
        if plugin not in NAMED_OPTIONS:
            return self.options.get(plugin, {})
        named: Options = getattr(self, plugin)
        return named

    def all_options(self) -> dict[str, Options]:
        """What the site says to each plugin that moves files for Rucio."""
        named = {name: self.options_of(name) for name in NAMED_OPTIONS if name != "rucio"}
        return {**self.options, **named}

    def secret_files(self) -> list[Path]:
        """The site's credentials for storage; where a token is looked for, all of its places."""
        named = [path for part in self._parts() for path in secret_files(part).values()]
        sought = token_discovery.places(token_discovery.STARTED_WITH) if self.discovers else []
        return [Path(path) for path in (*named, *sought)]

    @property
    def discovers(self) -> bool:
        """Whether a plugin looks for its token, see `ailurus.token_discovery`."""
        return any(map(discovers, self._parts()))

    def _parts(self) -> list[Options]:
        return [*self.options.values(), *map(self.options_of, NAMED_OPTIONS)]


class ContainerChoice(Struct, frozen=True):
    # empty: auto.
    default: str = ""
    bare: bool = False
    network: bool = True
    """Whether a payload that asks for the network gets it: the host's, loopback included."""
    user_namespaces: bool = False
    """Whether payloads may make user namespaces, and mounts in them."""
    show: tuple[str, ...] = ()
    """More paths that payloads see, read-only, where a node has them."""
    images: tuple[str, ...] = ()
    """Directories beneath which the images of jobs lie: SIF files and root file systems."""
    apptainer: str = ""
    """The directory of Apptainer's command, if it is in no usual one."""
    registries: tuple[str, ...] = ()
    """What references to images may begin with."""
    cache: str = ""
    """In which directory a node's pilots keep images of registries, those of each user apart;
    empty: beside the pilots' directories."""
    cache_size: Size = "50GiB"
    cache_age: Duration = "30d"
    """So long after its last use an image goes."""


class Limits(Struct, frozen=True):
    """Limits of single jobs at this site."""

    # Stdout and stderr together.
    stdout: Size = "2GiB"
    # One output file.
    output: Size = "500GiB"
    # All inputs of a job together; 0: no limit.
    inputs: Size = "0"
    # No file touched for so long; 0: never.
    looping: Duration = "2h"
    # One file.
    staging: Duration = "2h"
    # Between TERM and KILL.
    grace: Duration = 10


class SlotChoice(Struct, frozen=True):
    """What one worker of this slot has; left out: what the machine shows."""

    queue: str = ""
    cores: int | None = None
    memory: Size | None = None
    disk: Size | None = None
    walltime: Duration | None = None
    gpus: int | float | None = None
    """Less than 1: a part of one."""

    @property
    def most_gpus(self) -> int | None:
        """How many devices; None: all that are there."""
        return None if self.gpus is None else math.ceil(self.gpus)

    @property
    def gpu_part(self) -> int:
        """Its part of one GPU, in hundredths; 0: it has whole ones."""
        return 0 if self.gpus is None or self.gpus >= 1 else round(self.gpus * WHOLE)


class AllocationChoice(Struct, frozen=True):
    """How a pilot learns of several nodes."""

    kind: str = ""
    """Of the plugin; empty: the batch system that the environment shows."""
    options: Options = {}


class AgentsChoice(Struct, frozen=True):
    """The agents of a pilot of several nodes."""

    beat: Duration = 1
    """How often pilot and agents hear of each other."""
    lease: Duration = 4
    """An agent that hears nothing for so long kills its payloads; a little later they are given
    out again."""
    scratch: str = ""
    """Where each node has room for the /tmp of payloads; empty: as the batch system says."""

    def __post_init__(self) -> None:
        if fault := lease_fault(duration_s(self.beat), duration_s(self.lease)):
            raise ValueError(fault)


class GpusChoice(Struct, frozen=True):
    """Whether jobs that ask for a share of a GPU get one."""

    share: Annotated[int, Meta(ge=1, le=10)] = 1
    """How many jobs may be on one GPU; 1: none is shared."""
    mps: str = ""
    """The pipe directory of the daemon of NVIDIA's MPS that the site runs on its nodes: payloads
    with a share reach it."""

    @property
    def least(self) -> int:
        """The least that a job takes of a GPU that it shares, in hundredths; 0: none is shared."""
        return least_share(self.share)


class PilotChoice(Struct, frozen=True):
    pin: bool = False
    """Bind payloads to CPUs: only where no other pilot shares the node."""
    cgroups: str = "auto"
    """Whether the kernel limits the memory of payloads in cgroups of their own: `auto`, where those
    were delegated to the pilot; `on`, wherever they can be made; `off`."""
    allocation: AllocationChoice = AllocationChoice()
    agents: AgentsChoice = AgentsChoice()
    gpus: GpusChoice = GpusChoice()


class Site(Struct, frozen=True):
    site: str = ""
    credentials: dict[str, str] = {}
    """Files that options of `storage` name as `credential:NAME`. In what an edge tells its pilots
    their paths stand there already."""
    storage: Storage = Storage()
    software: tuple[str, ...] = ()
    container: ContainerChoice = ContainerChoice()
    limits: Limits = Limits()
    slots: dict[str, SlotChoice] = {}
    pilot: PilotChoice = PilotChoice()

    def slot(self, name: str, queue: str) -> SlotChoice:
        """The slot called `name`, or the only one that serves `queue`. Raises AilurusError for an
        unknown name."""
        if name:
            if name not in self.slots:
                known = ", ".join(self.slots) or "none"
                raise AilurusError("no such slot", field=f"slots.{name}", remedy=f"known: {known}")
            return self.slots[name]
        serving = [slot for slot in self.slots.values() if slot.queue == queue]
        return serving[0] if len(serving) == 1 else SlotChoice()


def keep_apart(site: Site, workdir: Path | None, own: Iterable[Path | None]) -> None:
    """Refuse to work where jobs would read what is the pilot's: `own` (its spool, credentials), and
    the directories that it makes in `workdir`; None: it has no jobs. Raises AilurusError."""
    own = [*own, *site.storage.secret_files()]
    here = None if workdir is None else look(str(workdir))
    mine = [look(str(one)) for one in own if one is not None]
    shown = [("storage.roots", root) for root in site.storage.roots]
    shown += [("software", path) for path in site.software]
    shown += [("container.show", path) for path in site.container.show]
    shown += [("container.images", path) for path in site.container.images]
    shown += [("pilot.gpus.mps", path) for path in (site.pilot.gpus.mps,) if path]
    shown += [("container", path) for path in SYSTEM]
    for key, path in shown:
        root = look(path)
        bad = [one for one in mine if one.overlaps(root)]
        if here is not None and (here.beneath(root) or _made_here(root, here)):
            bad.append(here)
        if bad:
            raise AilurusError(
                f"jobs could read {bad[0].name}, which is the pilot's: they are shown {path}",
                field=key,
                remedy="work directory, spool and tokens outside of what jobs are shown",
            )


def _made_here(root: Location, workdir: Location) -> bool:
    """Whether a path leads into a directory of pilots in `workdir`; other directories may lie
    beside them."""
    beside = root.real.removeprefix(f"{workdir.real.rstrip('/')}/")
    # The storage of a pilot by hand is not one of them, where its home is its work directory.
    return beside != root.real and beside.startswith("ailurus-") and beside != "ailurus-data"


class Bounds(Struct, frozen=True):
    """`Limits` in numbers."""

    stdout_bytes: int
    output_bytes: int
    inputs_bytes: int
    looping_s: float
    staging_s: float
    grace_s: float
    min_speed: float = 500.0 * 1024
    """Bytes a second."""
    min_time_s: float = 300.0
    outage_s: float = 0.0
    """For how long outputs wait for their storage."""

    def time_s(self, size: int | None) -> float:
        """How long a file of so many bytes may take."""
        if size is None:
            return self.staging_s
        return min(self.staging_s, self.min_time_s + size / self.min_speed)


def bounds_of(limits: Limits, storage: Storage = Storage()) -> Bounds:  # noqa: B008 - frozen
    """The limits in numbers. Raises AilurusError."""
    return Bounds(
        stdout_bytes=_bytes(limits.stdout),
        output_bytes=_bytes(limits.output),
        inputs_bytes=_bytes(limits.inputs),
        looping_s=duration_s(limits.looping),
        staging_s=duration_s(limits.staging),
        grace_s=duration_s(limits.grace),
        min_speed=max(1, _bytes(storage.min_speed)),
        min_time_s=duration_s(storage.min_time),
        outage_s=duration_s(storage.outage_tolerance),
    )


def _bytes(size: Size) -> int:
    """Bytes of a limit. A plain number is MB, as everywhere in a site file."""
    plain = isinstance(size, int) or size.strip().isdecimal()
    return size_mb(size) * 1024**2 if plain else size_bytes(size)


def megabytes(size: Size | None, otherwise: int) -> int:
    return otherwise if size is None else size_mb(size)


def read(path: Path | None) -> Site:
    """The pilot's parts of the site file at `path`. Raises AilurusError. An edge's copy of it
    (JSON) has no `~` and `$`."""
    if path is None:
        return Site()
    tree = _tree(path)
    try:
        site = msgspec.convert(tree, Site)
        return site if path.suffix == ".json" else _expanded(site)
    # ValueError: half a character.
    except (msgspec.ValidationError, ValueError) as error:
        raise AilurusError(
            f"{path}: {error}", remedy="`harvester-edge lint` names line and remedy"
        ) from None


def _expanded(site: Site) -> Site:
    """Raises AilurusError."""
    credentials = {name: expanded(path) for name, path in site.credentials.items()}
    storage = replace(
        site.storage,
        roots=tuple(map(expanded, site.storage.roots)),
        default_output=directory_url(site.storage.default_output),
        alternative_output=directory_url(site.storage.alternative_output),
        options={
            name: expanded_options(one, credentials) for name, one in site.storage.options.items()
        },
        **{
            name: expanded_options(site.storage.options_of(name), credentials)
            for name in NAMED_OPTIONS
        },
    )
    container = replace(
        site.container,
        show=tuple(map(expanded, site.container.show)),
        images=tuple(map(expanded, site.container.images)),
        cache=expanded(site.container.cache) if site.container.cache else "",
    )
    chosen = site.pilot.gpus
    gpus = replace(chosen, mps=expanded(chosen.mps) if chosen.mps else "")
    return replace(
        site,
        storage=storage,
        software=tuple(map(expanded, site.software)),
        container=container,
        pilot=replace(site.pilot, gpus=gpus),
    )


def by_hand(storage: Path | None) -> Site:
    """What a pilot without a site file may use: this directory, and no other storage."""
    if storage is None:
        return Site()
    root = str(storage.absolute())
    return Site(storage=Storage(roots=(root,), default_output=directory_url(root)))


def in_home(roots: Iterable[str]) -> list[Path]:
    """The storage roots that lie in this user's home directory."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home() may raise
    return [Path(root) for root in roots if home in Path(root).parents] if home.parts[1:] else []


def _tree(path: Path) -> Any:
    try:
        text = settings_in(path)
    except NotRegular as error:
        raise AilurusError(
            f"cannot read the site file: {error}", remedy="write it into a file, and name that"
        ) from None
    except OSError as error:
        raise AilurusError(f"cannot read the site file {path}: {error.strerror}") from None
    try:
        if path.suffix == ".json":
            return msgspec.json.decode(text)
        import yaml

        return yaml.safe_load(text)
    except Exception as error:  # noqa: BLE001 - whatever the parser says is wrong with the file
        raise AilurusError(f"{path} cannot be read: {error}") from None
