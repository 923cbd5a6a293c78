"""From options and site file to a running pilot's parts, and their end."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import plugins
from ailurus import __version__
from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import Room
from ailurus.protocol.units import duration_s
from ailurus.wire.client import TokenFile, fixed_token
from ailurus.wire.dialect import asked
from ailurus.wire.retry import Patience
from pilot.files.stage import Stage
from pilot.kit import Kit
from pilot.node import machine
from pilot.node.slots import Need, Slots, room_of
from pilot.node.supervisor import Supervisor
from pilot.options import Options
from pilot.ports import Container, ContainerSetup, JobError, Transfer
from pilot.process.spawner import GuardedSpawner
from pilot.run import user_name
from pilot.serve import Server, Terms
from pilot.site import Site, bounds_of, in_home, keep_apart, megabytes
from pilot.upstream.link import ONCE, Link
from pilot.upstream.reporter import WAITS_S, Reporter
from pilot.upstream.spool import Spool
from pilot.workdir import remove_tree

log = Log("pilot")


@contextmanager
def started(options: Options, site: Site, spawner: GuardedSpawner) -> Iterator[Server]:
    """A registered pilot, ready to serve; leaving it says goodbye and removes what it made."""
    keep_apart(site, options.workdir, (options.spool, options.token_file, options.bootstrap_file))
    for name, path in (("--workdir", options.workdir), ("--spool", options.spool)):
        _spellable(name, path)
    credential = _credential(options)
    instance = secrets.token_hex(8)
    slot = site.slot(options.slot, options.queue)
    _made(options.workdir)
    directory = options.workdir / f"ailurus-{instance}"
    directory.mkdir(mode=0o700)
    left: Path | None = None
    try:
        container = _container(site, directory)
        seen = machine.look(directory)
        total = Need(
            cores=seen.cores if slot.cores is None else slot.cores,
            memory_mb=megabytes(slot.memory, seen.memory_mb),
            disk_mb=megabytes(slot.disk, seen.disk_mb),
            gpus=seen.gpus if slot.gpus is None else slot.gpus,
        )
        lifetime = options.lifetime_s
        if lifetime is None and slot.walltime is not None:
            lifetime = duration_s(slot.walltime)
        host = socket.gethostname()
        who = m.Register(
            instance=instance,
            queue=options.queue,
            site=site.site,
            host=host,
            total=room_of(total, lifetime),
            version=__version__,
            batch_id=_batch_id(),
        )
        link = _link(options, credential, who)
        registered = link.register(Patience(total_s=options.patience_s))
        log.info("registered", worker_id=registered.worker_id, cores=total.cores)
        spool = Spool(_spool(options, directory, container), instance)
        bounds = bounds_of(site.limits)
        slots = Slots(total, _pinned(site, total, seen))
        stage = Stage(
            _transfers(site, options), site.storage.default_output, bounds, site.storage.logs
        )
        server: Server | None = None

        def room() -> Room:
            return room_of(slots.room(), server.seconds_left() if server else None)

        def drain(why: str) -> None:
            if server is not None:
                server.drain(why)

        # A spool that goes with this pilot is sent by no other one.
        waits_s = WAITS_S if container.private else float("inf")
        reporter = Reporter(link, room, stage.delete, drain, bounds.grace_s, waits_s)
        supervisor = Supervisor(bounds)
        kit = Kit(
            host=host,
            directory=directory,
            container=container,
            spawner=spawner,
            stage=stage,
            slots=slots,
            supervisor=supervisor,
            reporter=reporter,
            journal=spool.own,
        )
        terms = Terms(
            lifetime_s=lifetime,
            idle_exit_s=options.idle_exit_s,
            max_jobs=options.max_jobs,
            empty_acquires=options.empty_acquires,
            grace_s=options.grace_s,
        )
        server = Server(kit, link, terms)
        _adopt(spool, stage, reporter)
        try:
            _listen(spawner, server)
            yield server
        finally:
            supervisor.close()
            reporter.close()
            _send_bye(link, server)
            spool.own.close()
            if reporter.owes() and spool.directory.parent == directory:
                log.warning("reports_left", spool=str(spool.directory), remedy="pilot --recover")
                left = spool.directory
    finally:
        if left is None:
            remove_tree(directory)


def _spellable(option: str, path: Path | None) -> None:
    """Refuse a path that no report, no journal and no sandbox's argument can spell."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise AilurusError(
            f"the name {os.fsencode(str(path))!r} is not UTF-8",
            field=option,
            remedy="name another directory",
        ) from None


def _listen(spawner: GuardedSpawner, server: Server) -> None:
    ears = threading.Thread(
        target=spawner.listen, args=(server.guardian_lost,), name="spawner", daemon=True
    )
    try:
        ears.start()
    except RuntimeError:
        raise server.no_thread() from None


def _link(options: Options, credential: Callable[..., str] | None, who: m.Register) -> Link:
    """The tie to whatever answers at the address. Who comes with a bootstrap token was sent by an edge
    of ours; others ask once what the server speaks, unless the options say it."""
    dialect = options.dialect
    if dialect is None and options.bootstrap_file is None:
        dialect = asked(options.url, options.trust)
    if dialect in (None, "native"):
        return Link(options.url, credential, who, options.trust)
    from ailurus.wire.panda import PandaClient

    log.info("server_is_panda", dialect=dialect)
    client = PandaClient(
        options.url,
        credential,
        dialect,
        who,
        label=options.label,
        heartbeat_s=options.heartbeat_s,
        trust=options.trust,
    )
    return Link(options.url, credential, who, options.trust, panda=client)


def _credential(options: Options) -> Callable[..., str] | None:
    """What to register with: the batch script's token, read once and removed, or a token file."""
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


def _container(site: Site, directory: Path) -> Container:
    """The site's container; without a word from it, a sandbox or nothing."""
    name = site.container.default or "bubblewrap"
    own = directory / "container"
    own.mkdir(mode=0o700)
    setup = ContainerSetup(
        directory=str(own),
        user=user_name(),
        software=site.software,
        show=site.container.show,
        bare=site.container.bare,
        network=site.container.network,
        user_namespaces=site.container.user_namespaces,
    )
    made: Container = plugins.load("container", name)(setup)
    return made


def _transfers(site: Site, options: Options) -> Callable[[str], Transfer]:
    """The transfer of a URL scheme, made when a job first needs it."""

    @cache
    def transfer(scheme: str) -> Transfer:
        try:
            kind = plugins.load("data", scheme)
        except AilurusError as error:
            raise JobError(
                Code.NO_PROTOCOL, f"no data plugin for {scheme!r} URLs", remedy=error.remedy
            ) from None
        if scheme == "file":
            for root in [options.storage] if options.storage else in_home(site.storage.roots):
                _made_storage(root)
        try:
            made: Transfer = kind(
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


def _made(directory: Path) -> None:
    """Make a directory, and those above it that are missing, in which no umask lets a group of users put
    another one in the place of a pilot's."""
    if not directory.is_dir():
        _made(directory.parent)
        directory.mkdir(mode=0o755, exist_ok=True)


def _made_storage(directory: Path) -> None:
    """Make the storage of a pilot started by hand, or a site's in a home directory, when it is first needed.
    Another is not made: where it is missing, a mount is."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            Code.STAGE_OUT_FAILED,
            f"cannot make the storage directory {directory}: {error.strerror}",
            remedy="give the pilot --storage DIR",
        ) from None


def _spool(options: Options, directory: Path, container: Container) -> Path:
    """Where reports wait. Payloads that could read it get none that others share."""
    if not container.private:
        return directory / "spool"
    return options.spool or options.workdir / f"ailurus-spool-{os.geteuid()}"


def _pinned(site: Site, total: Need, seen: Need) -> Sequence[int]:
    """CPUs to bind payloads to: none unless the site says so and the slot is the whole node."""
    whole = total.cores == seen.cores == len(os.sched_getaffinity(0))
    return sorted(os.sched_getaffinity(0)) if site.pilot.pin and whole else ()


def _batch_id() -> str:
    return next(
        (os.environ[name] for name in ("SLURM_JOB_ID", "PBS_JOBID") if name in os.environ), ""
    )


def recover(options: Options, site: Site) -> None:
    """Do for dead pilots what the next one on their spool would do: for an edge that has no next one.

    Nothing is registered: each report is authorised by its own key.
    """
    assert options.spool is not None  # noqa: S101 - the options were checked
    keep_apart(site, options.workdir, (options.spool, options.token_file))
    instance = secrets.token_hex(8)
    nobody = m.Register(instance=instance, queue=options.queue, total=Room(cores=0))
    foreign = options.dialect in ("v1", "legacy")  # a PanDA server knows no keys
    token = TokenFile(options.token_file) if foreign and options.token_file else None
    stage = Stage(_transfers(site, options), site.storage.default_output, bounds_of(site.limits))
    reporter = Reporter(
        _link(options, token, nobody),
        lambda: nobody.total,
        stage.delete,
        lambda _: None,
        0.0,
    )
    spool = Spool(options.spool, instance)
    try:
        _adopt(spool, stage, reporter)
        reporter.flush()
    finally:
        spool.own.close()


def _adopt(spool: Spool, stage: Stage, reporter: Reporter) -> None:
    """Finish the affairs of dead pilots: their attempts' reports, leftovers and directories."""
    for journal in spool.orphans():
        owed = journal.owed()
        for one in owed:
            stage.delete(one.leftovers)
            reporter.owe(one.report, journal, seal=one.seal, adopted=True)
        for directory in {str(Path(name).parent) for name in journal.directories()}:
            if Path(directory).name.startswith("ailurus-"):
                remove_tree(Path(directory))
        if owed:
            log.info("adopted", journal=journal.path.name, reports=len(owed))
        else:
            journal.close()


def _send_bye(link: Link, server: Server) -> None:
    with suppress(AilurusError):
        bye = m.Bye(ending=server.ending, diagnosis=server.diagnosis)
        link.client.call("bye", bye, answer=m.Done, patience=ONCE)
