"""What an edge holds in its hands: its site, batch system, book, dispatcher, clock."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ailurus.logs import Log
from ailurus.paths import directory_url, expanded
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from harvester_edge import owned, pilot_file
from harvester_edge.batch import batch_class
from harvester_edge.book import Book
from harvester_edge.connect import connect
from harvester_edge.decide import Decision
from harvester_edge.evidence import Times, Worker
from harvester_edge.files import write_whole
from harvester_edge.ports import DIGITS, Batch, Tag, nodes_suffix
from harvester_edge.site import Site
from harvester_edge.upstream import Upstream


@dataclass
class Edge:
    """One site's edge. What is on disk is the truth; the rest is its cache."""

    site: Site
    batch: Batch
    book: Book
    upstream: Upstream
    clock: Callable[[], float]
    log: Log
    workers: dict[tuple[str, int], Worker] = field(default_factory=dict)  # that have not ended
    epoch: int = 0
    lease_s: float = 0.0  # how long the site is ours after the dispatcher's last word
    lease_until: float = 0.0  # when to ask for it again
    listed: float = 0.0  # when the batch system last answered
    blind: str = ""  # why the last listing failed
    unsearched: str = ""  # why the last search by tag failed
    # Whether the dispatcher did not take our token when it was last told of us.
    refused: bool = False
    decision: Decision | None = None
    told: Decision | None = None  # the one that the dispatcher knows
    wanting: dict[str, float] = field(default_factory=dict)  # slots: since when jobs wait for them
    avoid: tuple[str, ...] = ()  # nodes that the dispatcher gives no jobs
    tidied: float = 0.0
    # At once: an edge that begins does not know how the last one's pilots ended.
    recover_at: float | None = 0.0
    recovery: subprocess.Popen[bytes] | None = None
    recover_again_s: float = 60.0  # after the next failure; doubled by each

    @property
    def state(self) -> Path:
        return self.site.state

    @property
    def places(self) -> Path:
        """Workers' directories: logs, and what a batch system of this machine keeps of them."""
        return self.site.shared / "workers"

    @property
    def poll_s(self) -> float:
        return self._seconds(self.site.backend.limits.poll, self.batch.poll_s)

    @property
    def settle_s(self) -> float:
        return self._seconds(self.site.backend.limits.settle, self.batch.settle_s)

    @property
    def times(self) -> Times:
        grace = self._seconds(self.site.backend.limits.grace, self.batch.grace_s)
        return Times(
            grace_s=grace,
            start_grace_s=duration_s(self.site.policy.start_grace),
            give_up_s=duration_s(self.site.policy.max_queue_age),
        )

    def _seconds(self, wish: str | int | None, usual: float) -> float:
        return usual if wish is None else duration_s(wish)

    def new_tag(self, nodes: int = 1) -> Tag:
        """A name that no other intent has, and that shows whose it is. 15 characters: old PBS allows
        no more."""
        begin, end = prefix(self.site.site), nodes_suffix(nodes)
        middle = (secrets.choice(DIGITS) for _ in range(15 - len(begin) - len(end)))
        return Tag(f"{begin}{''.join(middle)}{end}")

    def keep(self, *workers: Worker) -> None:
        """Write workers to the book, then to memory."""
        with self.book.change():
            self.book.keep(workers)
        for worker in workers:
            self.remember(worker)

    def remember(self, worker: Worker) -> None:
        if worker.ended is None:
            self.workers[worker.key] = worker
        else:
            self.workers.pop(worker.key, None)

    def stranger(self, giver: str) -> str:
        """Why who answers as `giver` is not to be believed: while the site has workers, the dispatcher is
        the one whose store knows them. Empty: it is the dispatcher, or one from before names."""
        known = self.book.meta("giver")
        if giver in ("", known):
            return ""
        if known and self.workers:
            return (
                f"another dispatcher, or another store, answers at {self.site.dispatcher.url} than the "
                f"one that knows this site's {len(self.workers)} workers; nothing is begun, judged or "
                "cancelled until that one is back, or they have ended"
            )
        self.book.set_meta("giver", giver)
        return ""

    def adopting(self) -> bool:
        """Whether this edge has just taken the site, and not yet looked at what runs there."""
        return self.epoch > 0 and self.book.meta("epoch") != str(self.epoch)

    def adopted(self) -> None:
        self.book.set_meta("epoch", str(self.epoch))

    def slots(self) -> tuple[m.SlotShape, ...]:
        """The site's slots as the dispatcher is told them."""
        return tuple(
            m.SlotShape(name=name, queue=slot.queue, room=slot.room())
            for name, slot in self.site.slots.items()
        )


def prefix(site: str) -> str:
    """What the tags of a site begin with."""
    return "a" + hashlib.sha256(site.encode()).hexdigest()[:4]


class Steady:
    """The time of day now, which goes on evenly from here: no set clock makes a worker look late."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def __call__(self) -> float:
        return self._ahead + time.clock_gettime(time.CLOCK_BOOTTIME)

    def off_min(self) -> int:
        """By how many minutes the machine's clock has been set since."""
        return round((time.time() - self()) / 60)


def open_edge(site: Site, log: Log, clock: Callable[[], float] | None = None) -> Edge:
    """The edge of a site, with its book and what its plugin is."""
    places = site.shared / "workers"
    for path, key in directories(site):
        owned.own(path, key)
    pilot_file.hand_out(site)
    plugin = batch_class(site.backend.kind)
    options = msgspec.convert(site.backend.options, plugin.Options)
    batch = plugin(
        options,
        places,
        prefix(site.site),
        timeout_s=duration_s(site.backend.limits.command_timeout),
    )
    book = Book(site.state / "book.sqlite", site=site.site)
    try:
        return _opened(site, batch, book, clock or Steady(), log)
    except BaseException:
        book.close()
        raise


def _opened(site: Site, batch: Batch, book: Book, clock: Callable[[], float], log: Log) -> Edge:
    """An edge that knows what its book says."""
    workers = {worker.key: worker for worker in book.live()}
    last = book.decisions(1)
    return Edge(
        site=site,
        batch=batch,
        book=book,
        upstream=connect(site, book, workers.values, clock, log),
        clock=clock,
        log=log,
        workers=workers,
        decision=last[0].decision if last else None,
    )


def directories(site: Site) -> list[tuple[Path, str]]:
    """What must be the edge's alone, and the keys that name it: tokens, scripts and pilots lie there."""
    shared = "paths.shared" if site.paths.shared else "paths.state"
    return [
        (site.state, "paths.state"),
        (site.shared, shared),
        *((site.shared / name, shared) for name in ("workers", "sites")),
    ]


def grounded(edge: Edge) -> str:
    """Why nothing may be started from the edge's directories; empty: they and what nodes start from them
    are as the edge left them. What can be put right is, and is said."""
    site = edge.site
    for path, key in directories(site):
        if path not in (site.state, site.shared):
            owned.tighten(path)
        try:
            owned.own(path, key)
        except AilurusError as error:
            return str(error)
    try:
        bad = pilot_file.spoilt(site)
        pilot_file.hand_out(site)
        bad += _spoilt_site_files(site)
        pilot_program(site)
    except AilurusError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    for one in bad:
        edge.log.warning("spoilt_file_taken_away", file=str(one))
    return ""


def _spoilt_site_files(site: Site) -> list[Path]:
    """Site files that are not what their name says, taken away; the site's own is written again."""
    current = site_file(site)
    bad = [one for one in current.parent.glob("*.json") if _digest12(one) != one.stem]
    for one in bad:
        one.unlink(missing_ok=True)
    if current in bad:
        write_site_file(site)
    return bad


def _digest12(file: Path) -> str:
    """What a file of that content is called; empty: it cannot be one."""
    try:
        if file.is_symlink():
            return ""
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def pilot_program(site: Site) -> str:
    """The pilot that nodes start: the site's file or program, or the one installed beside this edge."""
    if (copy := pilot_file.place(site)) is not None:
        return str(copy)
    if site.pilot.program:
        program = Path(expanded(site.pilot.program))
        if program.exists() and (wrong := owned.foreign(program, program.stat())):
            raise AilurusError(wrong, field="pilot.program", remedy=f"chmod go-w {program}")
        return str(program)
    beside = Path(sys.executable).with_name("pilot")
    found = str(beside) if beside.exists() else shutil.which("pilot")
    if found is None:
        raise AilurusError(
            "no `pilot` is installed beside this edge", remedy="install ailurus[pilot]"
        )
    return found


def site_file(site: Site) -> Path:
    """Where pilots find the site as they are told it. Its content decides the name: a worker keeps the
    configuration that it was submitted with."""
    return site.shared / "sites" / f"{hashlib.sha256(_told(site)).hexdigest()[:12]}.json"


def write_site_file(site: Site) -> None:
    path = site_file(site)
    if not path.exists():
        owned.make(path.parent)
        write_whole(path, _told(site), lasting=True)


def _told(site: Site) -> bytes:
    """What pilots need of a site: JSON, which costs them no YAML library."""
    told = {
        "schema": site.schema,
        "site": site.site,
        "slots": site.slots,
        "storage": {
            "roots": [expanded(root) for root in site.storage.roots],
            "http_allow": site.storage.http_allow,
            "http_proxy": site.storage.http_proxy or "",
            "default_output": directory_url(site.storage.default_output),
            "logs": site.storage.logs,
        },
        "software": [expanded(path) for path in site.software],
        "container": msgspec.structs.replace(
            site.container, show=tuple(expanded(path) for path in site.container.show)
        ),
        "limits": site.limits,
        "pilot": {"pin": site.pilot.pin},
    }
    return msgspec.json.format(msgspec.json.encode(told))
