"""From options and site file to a running pilot's parts, and their end."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plugins
from ailurus import __version__
from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.resources import Room
from ailurus.protocol.units import duration_s
from ailurus.protocol.uploads import SCHEME
from ailurus.wire.credentials import TokenFile, fixed_token
from ailurus.wire.dialect import detect_dialect
from ailurus.wire.retry import Patience
from pilot import own_directory
from pilot.acquiring import Terms
from pilot.clock import SYSTEM, Clock
from pilot.files.movers import Movers
from pilot.files.stage import Stage
from pilot.kit import Kit
from pilot.node import machine
from pilot.node.claims import Claims, claim
from pilot.node.containers import container_of
from pilot.node.local import LocalNode, groups_of
from pilot.node.machine import Inventory
from pilot.node.sampler import Sampler
from pilot.node.slots import Slots
from pilot.node.supervisor import Supervisor
from pilot.options import Options
from pilot.ports import Container, JobError, Transfer
from pilot.process.spawner import GuardedSpawner
from pilot.serve import Server, no_thread
from pilot.site import Site, SlotChoice, bounds_of, in_home, keep_apart
from pilot.upstream.adoption import adopting
from pilot.upstream.delegated import Delegation
from pilot.upstream.leases import Leases
from pilot.upstream.link import ONCE, Link
from pilot.upstream.reporter import VERDICT_WAIT_S, Reporter
from pilot.upstream.spool import Journal, Spool
from pilot.upstream.uploads import Uploads
from pilot.workdir import remove_tree

if TYPE_CHECKING:
    from pilot.agents.allocated import Allocated
    from pilot.node_ports import Node
    from pilot.process.cgroup import Groups
    from pilot.process.children import Launch

log = Log("pilot")
# Where a pilot finds its id in the batch system: what the edge's script says, and otherwise what
# Slurm, PBS and LSF say in every job. HTCondor says it nowhere: its plugin does.
_BATCH_IDS = ("AILURUS_BATCH_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


@contextmanager
def started(
    options: Options, site: Site, spawner: GuardedSpawner, clock: Clock = SYSTEM
) -> Iterator[Server]:
    """A registered pilot, ready to serve; leaving it says goodbye and removes what it made.

    Raises AilurusError for what the pilot cannot work with, Dismissed or Unreachable as
    `Link.register` does, and OSError where its directory cannot be made.
    """
    keep_apart(site, options.workdir, (options.spool, options.token_file, options.bootstrap_file))
    _spellable(options)
    credential = _credential(options)
    instance = secrets.token_hex(8)
    reports_left = False
    with ExitStack() as ending:
        directory = ending.enter_context(own_directory.made(options.workdir, instance))
        ending.callback(lambda: None if reports_left else remove_tree(directory))
        container = container_of(site, directory, spawner)
        groups = groups_of(site, instance, spawner)
        slot = site.slot(options.slot, options.queue)
        around = (site, slot, container, spawner, groups, directory, clock)
        many = ending.enter_context(closing(_allocated(*around))) if options.head else None
        node = LocalNode(container, spawner, Sampler(clock), groups) if many is None else many.node
        ending.callback(node.close)
        nodes: Mapping[str, Node] = {node.name: node} if many is None else many.nodes
        seen = machine.look(directory, mps=site.pilot.gpus.mps)
        claims = ending.enter_context(closing(_claimed(slot, seen)))
        total = machine.total_of(slot, seen.resources, claims.gpus, site.pilot.gpus)
        terms = _terms(options, slot, many)
        if many is None:
            slots = Slots(total, machine.pinned(site, total, seen), claims.gpus, clock)
            room = Room.of(total, seconds_left=terms.lifetime_s)
        else:
            slots, room = many.offered(total, seen, claims.gpus, terms.lifetime_s)
        registration = _registration(options, site, instance, room, seen, claims)
        link = _link(options, credential, registration, clock)
        worker_id = link.register(Patience(total_s=options.patience_s)).worker_id
        log.info("registered", worker_id=worker_id, cores=total.cores)
        spool = Spool(_spool(options, directory, container), instance)
        kit = Kit(
            host=registration.host,
            clock=clock,
            directory=directory,
            node=node,
            nodes=nodes,
            stage=(stage := stage_of(options, site, spawner, directory, clock, link)),
            slots=slots,
            supervisor=Supervisor(bounds_of(site.limits), nodes, clock),
            delegation=Delegation(link, clock),
            leases=Leases(link),
            reporter=_reporter(link, stage, site, container, clock),
            journal=spool.own,
        )
        server = Server(kit, link, terms, loops=many.loops if many else None)
        adoption = adopting(spool, kit.reporter, options.workdir, clock)
        try:
            _listen(spawner, server.guardian_lost, server.no_thread, many)
            yield server
        finally:
            _end(kit, link, server)
            reports_left = _leave([spool.own, *adoption.journals], kit.reporter, directory)


def _claimed(slot: SlotChoice, seen: Inventory) -> Claims:
    """The GPUs that no other pilot of this node uses, as many as the slot has."""
    claims = claim(seen.gpus, slot.most_gpus, part=slot.gpu_part)
    if slot.gpus is not None and len(claims.gpus) < slot.gpus:
        log.warning("gpus_missing", slot=slot.gpus, found=len(seen.gpus), free=len(claims.gpus))
    return claims


# All that a head has in common with its agents.
def _allocated(
    site: Site,
    slot: SlotChoice,
    container: Container,
    spawner: GuardedSpawner,
    groups: Groups | None,
    directory: Path,
    clock: Clock,
) -> Allocated:
    """All nodes of the allocation. Raises AilurusError or OSError."""
    from pilot.agents.allocated import Surroundings, allocated

    return allocated(
        Surroundings(
            site=site,
            slot=slot,
            container=container,
            spawner=spawner,
            groups=groups,
            directory=directory,
            clock=clock,
        )
    )


def _terms(options: Options, slot: SlotChoice, many: Allocated | None) -> Terms:
    lifetime_s = options.lifetime_s
    if lifetime_s is None and slot.walltime is not None:
        lifetime_s = duration_s(slot.walltime)
    if many is not None and (left_s := many.lifetime_s()) is not None:
        lifetime_s = left_s if lifetime_s is None else min(lifetime_s, left_s)
    return Terms(
        lifetime_s=lifetime_s,
        idle_exit_s=options.idle_exit_s,
        max_jobs=options.max_jobs,
        empty_acquires=options.empty_acquires,
        grace_s=options.grace_s,
    )


def _registration(
    options: Options, site: Site, instance: str, total: Room, seen: Inventory, claims: Claims
) -> m.Register:
    return m.Register(
        instance=instance,
        queue=options.queue,
        site=site.site,
        host=socket.gethostname(),
        total=total,
        version=__version__,
        batch_id=_batch_id(),
        hardware=machine.hardware_with(seen, claims.gpus),
    )


def stage_of(
    options: Options,
    site: Site,
    spawner: GuardedSpawner,
    directory: Path,
    clock: Clock = SYSTEM,
    link: Link | None = None,
) -> Stage:
    """Moves files; `spawner` starts movers, and beneath `directory` are theirs. `link`: by which
    files come that users uploaded."""
    storage, bounds = site.storage, bounds_of(site.limits, site.storage)

    def launch() -> Launch:
        from pilot.process.children import Launch, mover_command, mover_environment

        return Launch(
            spawner=spawner,
            directory=directory / "movers",
            command=mover_command(),
            environment=mover_environment(os.environ),
            parallel=storage.parallel,
        )

    # Movers have none of our environment.
    ca = options.trust.ca or os.environ.get("SSL_CERT_FILE", "")
    movers = Movers(storage, bounds, launch, clock, ca)
    uploads = None if link is None else Uploads(link, directory / "uploads", clock)
    transfers = _transfers(site, options, uploads)
    return Stage(transfers, storage.default_output, bounds, storage, movers, clock)


def _reporter(link: Link, stage: Stage, site: Site, container: Container, clock: Clock) -> Reporter:
    return Reporter(
        link,
        stage.delete,
        grace_s=bounds_of(site.limits).grace_s,
        # No other pilot sends the reports of a spool that is removed with this one.
        verdict_wait_s=VERDICT_WAIT_S if container.private else float("inf"),
        clock=clock,
    )


def _leave(journals: Sequence[Journal], reporter: Reporter, directory: Path) -> bool:
    """Close the pilot's journal and those that it adopted; whether anything is owed in it, in the
    pilot's own directory, which must stay then."""
    for journal in journals:
        journal.close()
    spool = journals[0].path.parent
    left = reporter.owes() > 0 and spool.parent == directory
    if left:
        log.warning("reports_left", spool=str(spool), remedy="pilot --recover")
    return left


def _spellable(options: Options) -> None:
    """Refuse a path that no report, no journal and no sandbox's argument can spell."""
    for option, path in (("--workdir", options.workdir), ("--spool", options.spool)):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise AilurusError(
                f"the name {os.fsencode(str(path))!r} is not UTF-8",
                field=option,
                remedy="name another directory",
            ) from None


def _listen(
    spawner: GuardedSpawner,
    on_loss: Callable[[], None],
    no_thread: Callable[[], JobError],
    many: Allocated | None = None,
) -> None:
    """Let a thread hand out the guardian's answers, and one hear the agents. Raises `no_thread()`
    if the system gives none."""
    thread = threading.Thread(target=spawner.listen, args=(on_loss,), name="spawner", daemon=True)
    try:
        thread.start()
        if many is not None:
            many.serve()
    except RuntimeError:
        raise no_thread() from None


def _link(
    options: Options,
    credential: Callable[..., str] | None,
    registration: m.Register,
    clock: Clock = SYSTEM,
) -> Link:
    """The connection to the server at the address. A bootstrap token comes from an edge, so its
    server is a dispatcher; otherwise the server is asked once for its dialect, unless the options
    name it."""
    dialect = options.dialect
    if dialect is None and options.bootstrap_file is None:
        dialect = detect_dialect(options.url, options.trust)
    if dialect in (None, "native"):
        return Link(options.url, credential, registration, options.trust, clock=clock)
    from ailurus.wire.panda import PandaClient

    log.info("server_is_panda", dialect=dialect)
    client = PandaClient(
        options.url,
        credential,
        dialect,
        registration,
        label=options.label,
        heartbeat_s=options.heartbeat_s,
        trust=options.trust,
    )
    return Link(options.url, credential, registration, options.trust, panda=client, clock=clock)


def _credential(options: Options) -> Callable[..., str] | None:
    """The token to register with: the batch script's, read once and removed, or that of a token
    file. Raises AilurusError if the first cannot be taken."""
    if options.bootstrap_file is not None:
        try:
            text = options.bootstrap_file.read_text("utf-8").strip()
            options.bootstrap_file.unlink()
        except OSError as error:
            raise AilurusError(
                f"cannot take the bootstrap token {options.bootstrap_file}: {error.strerror}",
                remedy="was it used before? A pilot is started once",
            ) from None
        return fixed_token(text)
    return None if options.token_file is None else TokenFile(options.token_file)


def _transfers(
    site: Site, options: Options, uploads: Uploads | None = None
) -> Callable[[str], Transfer]:
    """The transfer of a URL scheme, made when a job first needs it."""

    @cache
    def transfer(scheme: str) -> Transfer:
        if scheme == SCHEME and uploads is not None:
            return uploads
        try:
            kind = plugins.load("data", site.storage.plugin(scheme))
        except AilurusError as error:
            raise JobError(
                Code.NO_PROTOCOL, f"no data plugin for {scheme!r} URLs", remedy=error.remedy
            ) from None
        if scheme == "file":
            for root in [options.storage] if options.storage else in_home(site.storage.roots):
                _make_storage(root)
        try:
            options_of = _options_of(site, site.storage.plugin(scheme))
            made: Transfer = kind(
                **options_of,
                roots=site.storage.roots,
                http_allow=site.storage.http_allow,
                http_proxy=site.storage.http_proxy,
                ca=options.trust.ca,
            )
        except AilurusError as error:
            what = f"the site's storage cannot be used: {error.message}"
            raise JobError(Code.SERVICE_UNAVAILABLE, what, remedy=error.remedy) from None
        return made

    return transfer


def _options_of(site: Site, plugin: str) -> dict[str, Any]:
    """What the site says to a transfer. A token is for the site's own storage, unless the site
    names where else."""
    said = site.storage.options_of(plugin)
    if not said:
        return {}
    own = (site.storage.default_output, site.storage.alternative_output)
    web = [url for url in own if url.startswith(("https://", "davs://"))]
    return {"options": {"token_for": web, **said}}


def _make_storage(directory: Path) -> None:
    """Make the storage of a pilot started by hand, or a site's in a home directory, when it is
    first needed. No other is made: where that is missing, a mount is. Raises JobError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            Code.STAGE_OUT_FAILED,
            f"cannot make the storage directory {directory}: {error.strerror}",
            remedy="give the pilot --storage DIR",
        ) from None


def _spool(options: Options, directory: Path, container: Container) -> Path:
    """Where reports wait: in a spool of this pilot alone, where payloads could read it."""
    if not container.private:
        return directory / own_directory.SPOOL
    return options.spool or options.workdir / f"ailurus-spool-{os.geteuid()}"


def _batch_id() -> str:
    """The batch system's id of the job that this pilot is, where the edge's script or the batch
    system says it."""
    return next((os.environ[name] for name in _BATCH_IDS if name in os.environ), "")


def recover(options: Options, site: Site, spawner: GuardedSpawner) -> None:
    """Send the reports of dead pilots, as the next pilot on their spool would: for an edge that has
    no next one.

    Nothing is registered: each report is authorised by its own key. Raises AilurusError if a report
    gets no verdict, or a file of an attempt that does not count is left.
    """
    import tempfile

    assert options.spool is not None  # noqa: S101 - the options were checked
    keep_apart(site, None, (options.spool, options.token_file))
    instance = secrets.token_hex(8)
    nobody = m.Register(instance=instance, queue=options.queue, total=Room(cores=0))
    # A PanDA server knows no keys.
    foreign = options.dialect in ("v1", "legacy")
    token = TokenFile(options.token_file) if foreign and options.token_file else None
    _listen(spawner, lambda: None, no_thread)
    with tempfile.TemporaryDirectory(prefix="ailurus-recover-") as name:
        stage = stage_of(options, site, spawner, Path(name))
        reporter = Reporter(_link(options, token, nobody), stage.delete)
        spool = Spool(options.spool, instance)
        adoption = adopting(spool, reporter)
        try:
            reporter.flush()
        finally:
            for journal in (spool.own, *adoption.journals):
                journal.close()
            stage.close()


def _end(kit: Kit, link: Link, server: Server) -> None:
    kit.supervisor.close()
    kit.reporter.close()
    with suppress(AilurusError):
        bye = m.Bye(
            ending=server.ending, diagnosis=server.diagnosis, occupancy=kit.slots.occupancy()
        )
        link.client.call("bye", bye, answer=m.Done, patience=ONCE)
    kit.stage.close()
