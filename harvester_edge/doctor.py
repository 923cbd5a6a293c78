"""Whether a site would work, asked of the site itself, one question after the other.

Nothing is taken and nothing stays: no lease of the site, no job of its users, no file. Only a probe
on a node submits something, when it is asked for: one short job, which is removed again.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from msgspec.structs import replace

from ailurus.naming import name_once
from ailurus.paths import expanded
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.finding import Finding, Verdict
from ailurus.protocol.units import duration_s
from harvester_edge import connect, credential, lint, owned
from harvester_edge.batch import batch_class
from harvester_edge.book import Book
from harvester_edge.daemon import holder
from harvester_edge.decide import TROUBLES
from harvester_edge.edge import make_batch
from harvester_edge.launch import launch, order_of
from harvester_edge.ports import BatchError, Tag
from harvester_edge.probe import ProbeRequest, probe
from harvester_edge.shared_files import directories, pilot_program
from harvester_edge.site import Site
from harvester_edge.status import down, glance

SHARED_KINDS = (
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.sshfs",
    "9p",
    "cifs",
    "afs",
)
SKEW_S = 30.0
FREE_MB = 1024
FREE_INODES = 10_000


class Trouble(Exception):
    """Why something is not good, and what would help."""

    def __init__(self, finding: str, remedy: str = "", *, warning: bool = False) -> None:
        super().__init__(finding)
        self.remedy, self.warning = remedy, warning


def examine(path: Path, how: ProbeRequest | None = None) -> Iterator[Finding]:
    """All questions, in the order in which one would ask them. `how`: a pilot tries storage,
    catalogue and container; None: it does not."""
    faults = lint.faults(path)
    wrong = [fault for fault in faults if fault.rule.startswith("E")]
    if wrong:
        for fault in wrong:
            yield Finding(about="site file", verdict="bad", said=str(fault))
        return
    summary = f"{len(faults)} warnings: see `harvester-edge lint`" if faults else "no fault"
    yield Finding(about="site file", verdict="warning" if faults else "good", said=summary)
    site = lint.load(path)
    yield _checked("dispatcher", lambda: _dispatcher(site))
    yield _checked("state", lambda: _state(site))
    yield _checked("shared", lambda: _shared(site))
    yield _checked("pilot", lambda: _pilot(site))
    for name in site.credentials:
        yield _checked(f"credential {name}", lambda name=name: _credential(site, name))  # type: ignore[misc]
    for root in site.storage.roots:
        yield _checked("storage", lambda root=root: _storage(Path(expanded(root))))  # type: ignore[misc]
    yield _checked("edge", lambda: _edge(site))
    yield from _loops(site)
    yield _checked("decision", lambda: _decision(site))
    yield _checked("batch system", lambda: _listing(site))
    yield _checked("history", lambda: _history(site))
    for name in site.slots:
        yield _checked(f"slot {name}", lambda name=name: _trial(site, name))  # type: ignore[misc]
    if how is not None:
        yield from probe(site, how)


def _checked(about: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(about=about, verdict="good", said=ask())
    except Trouble as one:
        verdict: Verdict = "warning" if one.warning else "bad"
        return Finding(about=about, verdict=verdict, said=str(one), remedy=one.remedy)
    except AilurusError as error:
        return Finding(about=about, verdict="bad", said=error.message, remedy=error.remedy)
    except OSError as error:
        return Finding(about=about, verdict="bad", said=f"{error.filename}: {error.strerror}")


def _dispatcher(site: Site) -> str:
    found = connect.probe(site)
    if found.skew_s > SKEW_S:
        finding = f"this machine's clock is {found.skew_s:.0f} s off the dispatcher's"
        raise Trouble(finding, "synchronise it: deadlines and tokens go by it", warning=True)
    return found.message


def _state(site: Site) -> str:
    finding = _room(site.state)
    if (book := site.state / "book.sqlite").exists():
        Book(book, site=site.site, read_only=True).close()
    kind = _filesystem(site.state)
    if kind in SHARED_KINDS:
        text = f"{site.state} is on {kind}: the book's locks are not safe there"
        raise Trouble(text, "a disk of this machine for paths.state")
    return f"{finding}, {kind}"


def _shared(site: Site) -> str:
    for path, _ in directories(site):
        if path.exists() and (wrong := owned.not_ours(path)):
            raise Trouble(*wrong)
    return _room(site.shared)


def _credential(site: Site, name: str) -> str:
    """Whether a credential for storage is good, and renewed in time."""
    now = time.time()
    source = credential.source(site, name, now)
    held = credential.held(site, name, now)
    if source.fault:
        pilots = "" if held.fault else "; pilots still have an older one"
        raise Trouble(f"{source.fault}{pilots}", source.remedy)
    if late := source.late(now):
        raise Trouble(late, "look at what should renew it", warning=True)
    ends = "does not say when it ends"
    if source.expires is not None:
        ends = f"is good for {(source.expires - now) / 3600:.1f} h more"
    return f"{ends}; {'pilots get it when the edge runs' if held.fault else 'pilots have it'}"


def _storage(root: Path) -> str:
    """How a file gets its name in a storage root without taking another's, tried with one of
    ours."""
    if not root.is_dir():
        text = f"{root} is not here: no job can be staged from or to it"
        raise Trouble(text, "mount it, or see that the nodes do", warning=True)
    if not os.access(root, os.W_OK):
        return f"{root} can be read; no output goes there"
    with tempfile.TemporaryDirectory(prefix=".ailurus-doctor-", dir=root) as probe:
        (draft := Path(probe) / "draft").touch()
        way = name_once(str(draft), str(Path(probe) / "file"))
    if way == "claim":
        text = (
            f"{root} has neither hard links nor renameat2: an output is an empty file for a moment"
        )
        raise Trouble(text, "let nobody read it before its job has finished", warning=True)
    return f"{root} takes outputs, by {way}"


def _room(path: Path) -> str:
    """Whether a directory, or what it would be made in, can be written and has room."""
    there = path
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise Trouble(f"{there} cannot be written by this user", "a directory of yours")
    if there == path and (wrong := owned.not_ours(path)):
        raise Trouble(*wrong)
    for above in owned.writable_above(path):
        finding = f"others may put another directory in the place of {path}, by {above}"
        raise Trouble(finding, "a place beneath directories of yours or of root", warning=True)
    free = os.statvfs(there)
    left_mb = free.f_bavail * free.f_frsize // 1024**2
    if left_mb < FREE_MB:
        raise Trouble(f"{there} has {left_mb} MB left", f"at least {FREE_MB}")
    if free.f_files and free.f_favail < FREE_INODES:
        raise Trouble(f"{there} has {free.f_favail} inodes left", "each worker needs about five")
    room = f"{left_mb // 1024} GB left"
    # A mount that is missing looks so, too.
    return f"{path} has {room}" if there == path else f"{path} is not there yet, {there} has {room}"


def _filesystem(path: Path) -> str:
    """The kind of the file system that a path is on."""
    there = path
    while not there.exists():
        there = there.parent
    there = there.resolve()
    best, kind = "", "unknown"
    # Of two mounts on one point the later one counts.
    for mount in psutil.disk_partitions(all=True):
        if there.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= len(best):
            best, kind = mount.mountpoint, mount.fstype
    return kind


def _pilot(site: Site) -> str:
    program = pilot_program(site)
    if site.backend.kind != "local" and site.pilot.program and not Path(program).exists():
        finding = f"{program} is not on this machine: whether nodes have it is not known"
        raise Trouble(finding, warning=True)
    if site.pilot.file is not None and not Path(program).exists():
        _whose(site, program)
        return f"{site.pilot.file} is handed out when the edge starts"
    if not os.access(program, os.X_OK):
        raise Trouble(f"{program} cannot be executed", "pilot.file or pilot.program")
    try:
        ran = subprocess.run(
            [program, "--version"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise Trouble(f"{program} --version does not end") from None
    if ran.returncode:
        raise Trouble(
            f"{program} --version: exit code {ran.returncode}: {ran.stderr[-300:].strip()}"
        )
    _whose(site, program)
    return f"{program}: {ran.stdout.strip()[:100]}"


def _whose(site: Site, program: str) -> None:
    """Tell of others who could put another program in the place of the one that nodes start."""
    if site.pilot.file is not None and site.pilot.sha256 is not None:
        return
    source = Path(expanded(site.pilot.file or program))
    remedy = "a place beneath directories of yours or of root"
    if site.pilot.file is not None:
        remedy += ", or its `sha256:` beside `file:`"
    if (owner := source.stat().st_uid) not in (0, os.geteuid()):
        finding = f"{source} is user {owner}'s, who decides what nodes run as you"
        raise Trouble(finding, remedy, warning=True)
    for above in owned.writable_above(source):
        finding = f"others may put another program in the place of {source}, by {above}"
        raise Trouble(finding, remedy, warning=True)


def _edge(site: Site) -> str:
    running = holder(site.state)
    return f"process {running} runs here" if running else "none runs here now"


def _loops(site: Site) -> Iterator[Finding]:
    """What does not do its work, of an edge and a relay that run here."""
    try:
        faults = down(site)
    # The question before has said why nobody can look.
    except OSError:
        return
    for finding in faults:
        remedy = (
            "its log has a line `loop_failed` with the trace" if "the loop `" in finding else ""
        )
        yield Finding(about="loops", verdict="bad", said=finding, remedy=remedy)


def _decision(site: Site) -> str:
    """What the edge made of all this when it last looked."""
    if not (site.state / "book.sqlite").exists():
        return "none yet: no edge has run here"
    answer = glance(site)
    if answer.decision is None:
        return "none yet: no edge has had its site here"
    if answer.decision.binding.name in TROUBLES:
        raise Trouble(
            answer.decision.sentence, "`harvester-edge why` shows every bound", warning=True
        )
    return answer.decision.sentence


def _listing(site: Site) -> str:
    began = time.monotonic()
    found = make_batch(site, site.shared / "workers").listing()
    took = time.monotonic() - began
    finding = (
        f"{site.backend.kind} answers in {took:.1f} s and shows {len(found)} workers of {site.site}"
    )
    if took > duration_s(site.backend.limits.command_timeout) / 2:
        raise Trouble(finding, "backend.limits.command_timeout is not far away", warning=True)
    return finding


def _history(site: Site) -> str:
    """Whether the batch system tells how workers ended that have left its listing."""
    batch = make_batch(site, site.shared / "workers")
    try:
        batch.find(Tag(site.tag_prefix + "doctor"), (), 3600.0)
    except BatchError as error:
        remedy = "what ends unseen holds its place meanwhile"
        if "history" in batch_class(site.backend.kind).Options.__struct_fields__:
            remedy += "; where the site keeps no history: `backend.options.history: false`"
        raise Trouble(error.message, remedy) from None
    if not batch.history:
        finding = f"{site.backend.kind} keeps none here: what ends between two looks counts as lost"
        raise Trouble(finding, "a `poll` shorter than ended jobs stay listed", warning=True)
    return f"{site.backend.kind} tells how workers ended"


def _trial(site: Site, name: str) -> str:
    """Ask the batch system whether it would take a worker of the slot, where it can tell."""
    with tempfile.TemporaryDirectory(prefix="ailurus-doctor-") as directory:
        how = replace(launch(site, name, "INTENT"), directory=Path(directory))
        batch, slot = make_batch(site, Path(directory)), site.slots[name]
        order = order_of(site, how, slot.together, batch)
        refused = batch.trial(order, Tag(site.tag_prefix + "doctor"))
    if refused is None:
        return f"{site.backend.kind} cannot say beforehand whether it would take a worker"
    if refused:
        raise Trouble(refused, f"slots.{name} and backend.options")
    if slot.nodes == 1:
        return "the batch system would take a worker"
    pilots = "one pilot for all" if slot.together == 1 else "a pilot on each"
    return f"the batch system would take an allocation of {slot.nodes} nodes, with {pilots}"
