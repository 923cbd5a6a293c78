"""The edge of one site: what it was made of, and the state of each of its parts.

What is on disk is the truth; the rest is its cache. Each part of the state is written by one
module.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ailurus.logs import Log, ThrottledLog
from ailurus.protocol.units import duration_s
from harvester_edge import pilot_file
from harvester_edge.batch import batch_class
from harvester_edge.book import Book
from harvester_edge.connect import connect
from harvester_edge.decide import Decision
from harvester_edge.evidence import Times, Worker
from harvester_edge.ports import DIGITS, Batch, Tag, nodes_suffix
from harvester_edge.reconcile import Rules
from harvester_edge.shared_files import own_directories
from harvester_edge.site import Site
from harvester_edge.upstream import Key, Upstream

TAG_LENGTH = 15
"""Old PBS allows no more."""


@dataclass
class SiteLease:
    """The site's lease. Written by `lease`; `record` has it renewed after a silence."""

    epoch: int = 0
    length_s: float = 0.0
    """How long the site is ours after the dispatcher's last answer."""
    renew_at: float = 0.0
    refused: bool = False
    """Whether the dispatcher did not take our token at the last hello."""


@dataclass
class BatchState:
    """How the batch system answered. Written by `observe`."""

    listed_at: float = 0.0
    listing_failure: str = ""
    """Why the last listing failed."""
    search_failure: str = ""
    """Why the last search by tag failed."""


@dataclass
class Decisions:
    """The last decision, written by `daemon`, and the one that the dispatcher has, written by
    `record`."""

    last: Decision | None = None
    published: Decision | None = None

    def unpublished(self) -> Decision | None:
        """The last decision, if the dispatcher does not have it."""
        return None if self.last is self.published else self.last


FIRST_RETRY_S = 60.0


@dataclass
class Recovery:
    """The process that sends reports of dead pilots. Written by `recover`."""

    due_at: float | None = 0.0
    """At once: a new edge does not know how the last one's pilots ended. None: nothing is owed."""
    process: subprocess.Popen[bytes] | None = None
    retry_s: float = FIRST_RETRY_S
    """How long to wait after the next failure; doubled by each."""


@dataclass
class Edge:
    """One site's edge."""

    site: Site
    batch: Batch
    book: Book
    upstream: Upstream
    clock: Callable[[], float]
    log: Log
    workers: dict[Key, Worker] = field(default_factory=dict)
    """Those that have not ended. Written by `keep` and `remember`."""
    lease: SiteLease = field(default_factory=SiteLease)
    batch_state: BatchState = field(default_factory=BatchState)
    decisions: Decisions = field(default_factory=Decisions)
    recovery: Recovery = field(default_factory=Recovery)
    waiting_since: dict[str, float] = field(default_factory=dict)
    """Since when jobs wait that a slot could hold, by slot. Written by `empties`."""
    tidied_at: float = 0.0
    """Written by `daemon`."""

    def __post_init__(self) -> None:
        self.throttled_log = ThrottledLog(self.log)

    @property
    def state(self) -> Path:
        return self.site.state

    @property
    def worker_directories(self) -> Path:
        """Workers' directories, by tag and index: logs, and what the local batch system keeps of
        them."""
        return self.site.shared / "workers"

    @property
    def poll_s(self) -> float:
        return self._seconds(self.site.backend.limits.poll, self.batch.poll_s)

    @property
    def settle_s(self) -> float:
        return self._seconds(self.site.backend.limits.settle, self.batch.settle_s)

    @property
    def rules(self) -> Rules:
        """What of the site decides about its workers."""
        policy = self.site.policy
        give_up_s = duration_s(policy.max_queue_age)
        return Rules(
            tag_prefix=self.site.tag_prefix,
            queues={name: slot.queue for name, slot in self.site.slots.items()},
            max_queue_age_s=give_up_s,
            times=Times(
                grace_s=self._seconds(self.site.backend.limits.grace, self.batch.grace_s),
                start_grace_s=duration_s(policy.start_grace),
                give_up_s=give_up_s,
            ),
        )

    def _seconds(self, configured: str | int | None, default: float) -> float:
        return default if configured is None else duration_s(configured)

    def new_tag(self, together: int = 1) -> Tag:
        """A name that no other intent has, and that shows whose it is, and how many workers start
        together."""
        begin, end = self.site.tag_prefix, nodes_suffix(together)
        middle = (secrets.choice(DIGITS) for _ in range(TAG_LENGTH - len(begin) - len(end)))
        return Tag(f"{begin}{''.join(middle)}{end}")

    def keep(self, *workers: Worker) -> None:
        """Write workers to the book, then to memory. Raises BookUnwritable."""
        with self.book.change():
            self.book.keep(workers)
        for worker in workers:
            self.remember(worker)

    def remember(self, worker: Worker) -> None:
        """Keep in memory what the book has of a worker."""
        if worker.ended is None:
            self.workers[worker.key] = worker
        else:
            self.workers.pop(worker.key, None)

    def adopting(self) -> bool:
        """Whether this edge has just taken the site, and not yet adopted what runs there."""
        epoch = self.lease.epoch
        return epoch > 0 and self.book.meta("epoch") != str(epoch)

    def adopted(self) -> None:
        """Write that what runs there is this edge's."""
        self.book.set_meta("epoch", str(self.lease.epoch))

    def close(self) -> None:
        """Close what is open on disk."""
        self.upstream.close()
        self.book.close()


class SteadyClock:
    """The time of day at the start, which goes on evenly: setting the clock makes no worker look
    late."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def __call__(self) -> float:
        return self._offset_s + time.clock_gettime(time.CLOCK_BOOTTIME)

    def off_min(self) -> int:
        """By how many minutes the machine's clock has been set since."""
        return round((time.time() - self()) / 60)


def make_batch(site: Site, directories: Path, prefix: str = "") -> Batch:
    """The batch system of a site. `directories`: those of its workers. `prefix`: what its tags
    begin with; empty: as workers' do. Raises AilurusError."""
    plugin = batch_class(site.backend.kind)
    options = msgspec.convert(site.backend.options, plugin.Options)
    timeout_s = duration_s(site.backend.limits.command_timeout)
    return plugin(options, directories, prefix or site.tag_prefix, timeout_s=timeout_s)


def open_edge(site: Site, log: Log, clock: Callable[[], float] | None = None) -> Edge:
    """The edge of a site as its book knows it. Raises AilurusError if something of it cannot be
    used."""
    own_directories(site)
    pilot_file.hand_out(site)
    batch = make_batch(site, site.shared / "workers")
    book = Book(site.state / "book.sqlite", site=site.site)
    try:
        workers = {worker.key: worker for worker in book.live()}
        last = book.decisions(1)
        clock = clock or SteadyClock()
        return Edge(
            site=site,
            batch=batch,
            book=book,
            upstream=connect(site, book, workers.values, clock, log),
            clock=clock,
            log=log,
            workers=workers,
            decisions=Decisions(last[0].decision if last else None),
        )
    except BaseException:
        book.close()
        raise
