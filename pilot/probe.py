"""`pilot --probe`: tries catalogue, storage and container of a site, as its jobs use them.

A small file is written, read, compared and removed wherever the site lets jobs write, by each
protocol that the site file names; a program that does nothing runs in a container, and there each
launcher looks for what it needs. No dispatcher is asked and no job taken. Each answer is a line of
JSON on stdout, a `Finding`; the last one is about the probe itself.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import plugins
from ailurus.protocol.did import SCHEME as RUCIO
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.finding import PROBE, Finding
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.messages import Assignment, DoneFile
from ailurus.protocol.url import Url
from pilot import own_directory
from pilot.attempt import Attempt
from pilot.files.stage import Stage
from pilot.node.containers import container_of, user_name
from pilot.node.local import LocalNode
from pilot.node_ports import Exit
from pilot.options import Options
from pilot.payload import Part, Payload
from pilot.ports import PATH, JobError, Sandbox
from pilot.process.spawner import GuardedSpawner
from pilot.run import stderr_tail
from pilot.site import Protocols, Site, Storage
from pilot.start import stage_of
from pilot.workdir import Workdir, remove_tree

FILE_BYTES = 64 * 1024
STEP_S = 60
"""For one file, one way."""
PLACE_S = 75.0
"""For all that is done at one place, or asked of the catalogue."""
IMAGE_S = 240.0
"""For a container, whose image may have to be fetched."""
IMAGES = ("*.sif", "*.squashfs", "*.sqfs")


class Place(Struct, frozen=True, kw_only=True):
    """Somewhere that jobs of the site write."""

    name: str
    storage: Storage
    """The site's, so narrowed that files can go there alone."""
    output: OutputFile
    needed: bool = True
    """Whether jobs come here by themselves; elsewhere some may only read."""


class _Trial:
    """What the tries have in common."""

    def __init__(
        self, options: Options, site: Site, spawner: GuardedSpawner, directory: Path
    ) -> None:
        self.site, self.spawner, self.directory = site, spawner, directory
        self._options = options

    @cached_property
    def node(self) -> LocalNode:
        """This machine, with the site's containers. Raises what `container_of` does."""
        container = container_of(self.site, self.directory, self.spawner)
        return LocalNode(container, self.spawner)

    def stage(self, storage: Storage, name: str) -> Stage:
        """Staging as the pilot does it; its movers work in a directory of that name."""
        limits = replace(self.site.limits, staging=STEP_S)
        # What is tried says at once what is wrong with it.
        now = replace(storage, outage_tolerance=0)
        site = replace(self.site, storage=now, limits=limits)
        return stage_of(self._options, site, self.spawner, self.directory / name)


def probe(options: Options, site: Site, spawner: GuardedSpawner) -> None:
    """Try everything, and write what came of it. Raises AilurusError for a site that cannot be
    understood, OSError if there is no place to work in."""
    began = time.monotonic()
    # A batch job is told to end so: what is under way is cleared up.
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    wanted = places(site.storage, secrets.token_hex(6))
    with own_directory.made(options.workdir, secrets.token_hex(8)) as directory:
        threading.Thread(target=spawner.listen, args=(lambda: None,), daemon=True).start()
        trial = _Trial(options, site, spawner, directory)
        try:
            if site.storage.rucio or site.storage.rse:
                _say(_answer("catalogue", partial(_catalogue, trial)))
            for number, place in enumerate(wanted):
                ask = partial(_stored, trial, place, f"place-{number}")
                _say(_answer(f"storage {place.name}", ask, needed=place.needed))
            image = options.image or _first_image(site)
            _say(started := _answer("container", partial(_started, trial, image)))
            if started.verdict == "good":
                _say(_answer("launchers", partial(_launchers, trial, image)))
        finally:
            remove_tree(directory)
    took_s = time.monotonic() - began
    ended = f"ended on {socket.gethostname()} as user {user_name()} after {took_s:.1f} s"
    _say(Finding(about=PROBE, verdict="good", said=ended))


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _say(finding: Finding) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(finding) + b"\n")
    sys.stdout.buffer.flush()


def _answer(about: str, ask: Callable[[], str], *, needed: bool = True) -> Finding:
    try:
        return Finding(about=about, verdict="good", said=ask())
    except AilurusError as error:
        said, remedy = error.message, error.remedy
    except OSError as error:
        said, remedy = f"{error.filename or 'this node'}: {error.strerror}", ""
    remedy = remedy or "the pilot's log has more"
    if not needed:
        remedy += "; if jobs only read there, all is well"
    return Finding(about=about, verdict="bad" if needed else "warning", said=said, remedy=remedy)


@contextmanager
def _attempt(spec: JobSpec, most_s: float) -> Iterator[Attempt]:
    """An attempt that nobody has leased; it is stopped after so many seconds."""
    nobodys = Assignment(job_id=0, attempt_nr=0, report_key="", spec=spec)
    attempt = Attempt(nobodys, lambda changed: None)
    late = JobError(
        Code.COMMAND_TIMEOUT,
        f"nothing came of it within {most_s:.0f} s",
        remedy="does that service answer? Its log, and that of the pilot, may say more",
    )
    timer = threading.Timer(most_s, attempt.stop, [late])
    timer.daemon = True
    timer.start()
    try:
        yield attempt
    finally:
        timer.cancel()


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what was tried when it failed."""
    try:
        yield
    except JobError as error:
        message = f"{what}: {error.message}"
        raise JobError(
            error.code, message, remedy=error.remedy, transient=error.transient
        ) from None


# -- catalogue -------------------------------------------------------------------------------------


def _catalogue(trial: _Trial) -> str:
    spec = JobSpec(name=PROBE, command="true")
    with _attempt(spec, PLACE_S) as attempt:
        stage = trial.stage(trial.site.storage, "catalogue")
        return "; ".join(stage.examine(RUCIO, attempt)) or "it was not asked anything"


# -- storage ---------------------------------------------------------------------------------------


def places(storage: Storage, mark: str) -> list[Place]:
    """Where files are written, and how: the outputs' places, what else jobs may name, the site's
    storage in Rucio by each of its protocols. Raises AilurusError for a URL that is none."""
    output = OutputFile(name=f"ailurus-probe-{mark}")
    usual = [Url.parse(url) for url in (storage.default_output, storage.alternative_output) if url]
    roots = [Url.of_path(root) for root in storage.roots if os.access(root, os.W_OK)]
    others = [
        prefix
        for prefix in [*map(Url.parse, storage.allow), *roots]
        if not any(url.within(prefix) for url in usual)
    ]
    # Jobs may not name the alternative unless `allow` says so, and what is left over goes there.
    instead = (storage.alternative_output,) if storage.alternative_output else ()
    trusting = replace(storage, allow=(*storage.allow, *instead))
    found = [
        Place(
            name=str(url),
            # Where a site's token may go follows from this.
            storage=replace(
                trusting if url.text in instead else storage,
                default_output=url.text,
                alternative_output="",
            ),
            output=replace(output, url=url.text),
            needed=url in usual,
        )
        for url in dict.fromkeys([*usual, *others])
    ]
    return found + (_in_rucio(storage, output) if storage.rse else [])


def _in_rucio(storage: Storage, output: OutputFile) -> list[Place]:
    named = storage.protocols
    reads, writes = named.read_lan, named.write_lan or named.write_wan
    account = str(storage.rucio.get("account") or "ailurus")
    scoped = replace(output, scope=f"user.{account}"[:25])
    quiet = replace(
        storage, alternative_output="", rucio={**storage.rucio, "traces": False}
    )  # fmt: skip
    if not reads and not writes:
        return [Place(name=storage.rse, storage=quiet, output=scoped)]
    found = []
    for scheme in dict.fromkeys((*writes, *reads)):
        read = (scheme,) if scheme in reads or not reads else reads
        write = (scheme,) if scheme in writes else writes
        by = Protocols(read_lan=read, read_wan=read, write_lan=write)
        one = replace(quiet, protocols=by)
        found.append(Place(name=f"{storage.rse} by {scheme}", storage=one, output=scoped))
    return found


def _stored(trial: _Trial, place: Place, name: str) -> str:
    """Write a file there, read it, compare it and remove it."""
    stage = trial.stage(place.storage, name)
    content = secrets.token_bytes(FILE_BYTES)
    began = time.monotonic()
    (trial.directory / name).mkdir(mode=0o700)
    done = _written(trial, stage, place, content, name)
    try:
        _read_back(trial, stage, done, content, name)
    except BaseException:
        stage.delete([done.url])
        raise
    if stage.delete([done.url]):
        raise JobError(
            Code.STAGE_OUT_FAILED,
            f"wrote and read a file, and cannot remove it: {Url.parse(done.url)}",
            remedy="remove it by hand; may the site's credential delete?",
        )
    took_s = time.monotonic() - began
    return f"wrote, read and removed {FILE_BYTES >> 10} KiB in {took_s:.2f} s, adler32 compared"


def _written(trial: _Trial, stage: Stage, place: Place, content: bytes, name: str) -> DoneFile:
    spec = JobSpec(name=PROBE, command="true", outputs=(place.output,))
    with (
        _attempt(spec, PLACE_S) as attempt,
        Workdir(trial.directory / name / "out") as work,
        _step("cannot write"),
    ):
        stage.allowed(attempt)
        work.make()
        (work.directory / place.output.name).write_bytes(content)
        try:
            (done,) = stage.stage_out(attempt, work)
        except BaseException as error:
            # It may have arrived unacknowledged.
            if not (isinstance(error, JobError) and error.code is Code.SERVICE_UNAVAILABLE):
                stage.delete(stage.planned(attempt))
            raise
        return done


def _read_back(trial: _Trial, stage: Stage, done: DoneFile, content: bytes, name: str) -> None:
    """Raise JobError if what comes back is not what went."""
    file = InputFile(name="back", url=done.url, size=done.size, adler32=done.adler32)
    spec = JobSpec(name=PROBE, command="true", inputs=(file,))
    with (
        _attempt(spec, PLACE_S) as attempt,
        Workdir(trial.directory / name / "in") as work,
        _step("wrote a file, and cannot read it"),
    ):
        work.make()
        stage.stage_in(attempt, work)
        if (work.directory / file.name).read_bytes() != content:
            raise JobError(
                Code.GET_ADLER_MISMATCH, "it is another one", remedy="look at that storage's disks"
            )


# -- container -------------------------------------------------------------------------------------


def _first_image(site: Site) -> str:
    """An image of the site's, if it has one in a file."""
    for directory in map(Path, site.container.images):
        for form in IMAGES:
            if found := sorted(directory.glob(form)):
                return str(found[0])
    return ""


def _started(trial: _Trial, image: str) -> str:
    """Run a program that does nothing, as payloads run."""
    began = time.monotonic()
    runtime, _ = _in_container(trial, image, "true")
    took_s = time.monotonic() - began
    return f"{runtime} ran a program in {_named(image)}, {took_s:.2f} s"


def _launchers(trial: _Trial, image: str) -> str:
    """What starts parallel programs where jobs run."""
    questions = [
        getattr(plugins.load("launch", name), "FOUND", "") for name in plugins.names("launch")
    ]
    # Each in a shell of its own, so that none spoils the next.
    text = "".join(f"(\n{question})\n" for question in questions if question)
    _, said = _in_container(trial, image, f"{text}:")
    found = grouped(said) or ["nothing on a job's PATH starts MPI, Horovod, Ray or torch"]
    return f"{_named(image)}: {'; '.join([*found, *_slurms()])}"


def grouped(text: str) -> list[str]:
    """What launchers have found, by lines `WHAT<tab>COMMAND`, with its commands behind it."""
    commands: dict[str, list[str]] = {}
    for line in text.splitlines():
        what, tab, command = line.partition("\t")
        if tab:
            commands.setdefault(what, []).append(command)
    return [f"{what} ({', '.join(names)})" for what, names in commands.items()]


def _slurms() -> list[str]:
    """By which interfaces Slurm would start ranks, of this node itself."""
    try:
        types = plugins.load("node", "slurm").pmi_types(os.environ)
    except AilurusError as error:
        return [f"no ranks by srun ({error.message.splitlines()[-1]})"]
    return [f"srun --mpi={types}"] if types else []


def _named(image: str) -> str:
    return image or "the node's own system"


def _in_container(trial: _Trial, image: str, command: str) -> tuple[str, str]:
    """The runtime that a shell's command ran in, and what that wrote. Raises JobError if it did not
    end well."""
    spec = JobSpec(name=PROBE, command=command, container=image)
    with (
        _attempt(spec, IMAGE_S) as attempt,
        Workdir(trial.directory / "payload") as work,
        _step(f"no container of {image}" if image else "no container"),
    ):
        node = trial.node
        work.make()
        node.container.accepts(spec)
        attempt.image = node.prepare(spec, attempt.check)
        runtime = node.container.of(spec).name
        ended = _ran(node, attempt, work)
        attempt.check()
        _judge(runtime, ended, work)
        return runtime, work.stdout.read_text("utf-8", "replace")


def _ran(node: LocalNode, attempt: Attempt, work: Workdir) -> Exit:
    box = Sandbox(
        directory=str(work.directory),
        tmp=str(work.tmp),
        environment={"PATH": PATH},
        memory_mb=attempt.spec.memory_mb,
        image=attempt.image,
        own=str(work.path),
    )
    payload = Payload(attempt.name, attempt.spec, [Part(node, box)])

    def start() -> Payload:
        argv = ["/bin/sh", "-c", attempt.spec.command]
        payload.begin(argv, str(work.stdout), str(work.stderr))
        return payload

    attempt.start_payload(start)
    payload.over.wait()
    attempt.payload_ended()
    assert payload.exit is not None  # noqa: S101 - it is over
    return payload.exit


def _judge(runtime: str, ended: Exit, work: Workdir) -> None:
    """Raise JobError for a program that did not run well."""
    process = ended.process
    if not process.errno and not process.exit_code:
        return
    error = ended.explain().error
    how = os.strerror(process.errno) if process.errno else f"exit code {process.exit_code}"
    last = next((line for line in reversed(stderr_tail(work).splitlines()) if line.strip()), "")
    raise error or JobError(
        Code.CONTAINER_MISSING,
        f"{runtime} failed: {how}{f' ({last[:300]})' if last else ''}",
        remedy="does it work for this user by hand? docs/images.md",
    )
