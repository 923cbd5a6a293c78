"""What open pages see move: server-sent events, encoded once and sent to all who look at the same.

Every quarter of a second one pass asks the service what has changed for the topics that anybody
looks at, encodes each answer once and hands the same bytes to every page; a thousand pages on one
topic cost one question. A page that joins gets a snapshot, so a reconnection needs no memory here,
and a page that does not keep up is let go: it comes back for a snapshot.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from ailurus.logs import Log
from ailurus.protocol.api import Scope, StreamQuery
from dispatcher.accounts.costs import BYTE_S
from dispatcher.accounts.meter import METER, Meter
from dispatcher.auth.caller import Caller
from dispatcher.console.feeds import (
    MOST_EVENTS,
    EventReader,
    Feed,
    JobFeed,
    JobsFeed,
    OverviewFeed,
    Watched,
    WorkersFeed,
    encoded,
)
from dispatcher.console.log_feed import LogFeed
from dispatcher.events import Entry
from dispatcher.ports import Unavailable
from dispatcher.refusal import Rejected

# Four frames a second.
PERIOD_S = 0.25
# Of one core, at most, goes into looking; busier, frames come further apart.
SHARE = 0.2
# Part of the time that goes at most into the topics of one user: then those of others come first.
SHARE_EACH = 0.1
DEAR_S = (
    # What takes longer is on its user's account alone, and nobody else's frames wait for it.
    0.02
)
HEARTBEAT_S = 15.0
# Frames that a page may leave unread: six seconds.
BEHIND = 24
RETRY_MS = 2000
TOPICS = 12

KINDS: dict[str, type[Feed]] = {
    "overview": OverviewFeed,
    "jobs": JobsFeed,
    "workers": WorkersFeed,
    "job": JobFeed,
    "log": LogFeed,
}

log = Log("live")


class Page:
    """One open stream: the frames it has not taken yet."""

    def __init__(self, caller: Caller) -> None:
        self.expires = caller.expires
        self.closed = False
        self._frames: deque[bytes] = deque()
        self._more = asyncio.Event()

    def put(self, frame: bytes) -> None:
        """Hand over a frame, or let go of a reader that is far behind."""
        if len(self._frames) >= BEHIND:
            self.close()
        else:
            self._frames.append(frame)
            self._more.set()

    def close(self) -> None:
        """End the stream once what is here has been read."""
        self.closed = True
        self._more.set()

    async def take(self) -> bytes:
        """All frames that have gathered; none when the stream has ended."""
        await self._more.wait()
        frame = b"".join(self._frames)
        self._frames.clear()
        if not self.closed:
            self._more.clear()
        return frame


class Channel:
    """All pages that look at the same topics with the same rights."""

    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self.pages: set[Page] = set()
        self.sent_at = time.monotonic()


class Live:
    """The route `stream`. `service` answers the questions; nothing here knows a rule of the
    queue."""

    def __init__(self, service: Watched) -> None:
        self._service = service
        self._channels: dict[tuple[str, tuple[str, ...]], Channel] = {}
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._events = EventReader(service)
        self._loops = service.loops
        self._loop = self._loops.add("live")
        self._task: asyncio.Task[None] | None = None
        # By user: until when, by the monotonic clock.
        self._rests: dict[str, float] = {}

    async def stream(self, query: StreamQuery, caller: Caller) -> AsyncGenerator[bytes, None]:
        """The events of `query.topics`: a snapshot first. Raises Rejected before the first byte."""
        topics = _topics(query.topics)
        # a viewer sees own jobs, an administrator all: pages of equal rights share every answer
        rights = "" if caller.may(Scope.ADMIN) else caller.subject
        taken: list[Feed] = []
        page = Page(caller)
        try:
            for topic in topics:
                taken.append(feed := self._take(rights, topic, caller))
                await asyncio.shield(feed.ready)
            channel = self._channels.setdefault((rights, topics), Channel(taken))
            # Before the snapshot is read: nothing falls between the two.
            channel.pages.add(page)
            if self._task is None or self._task.done():
                self._events = EventReader(self._service)
                self._task = self._loops.once("live", self._run())
            yield b"retry: %d\n\n" % RETRY_MS + b"".join(feed.snapshot() for feed in taken)
            while frame := await page.take():
                yield frame
        finally:
            self._leave(page, (rights, topics), taken)

    def close(self) -> None:
        """End all streams: the dispatcher stops."""
        if self._task is not None:
            self._task.cancel()
        for channel in self._channels.values():
            for page in channel.pages:
                page.close()

    def _take(self, rights: str, topic: str, caller: Caller) -> Feed:
        """The feed of a topic, one for all who have these rights; given back by `_leave`."""
        kind, _, number = topic.partition(":")
        key = ("" if KINDS[kind].same_for_all else rights, topic)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = KINDS[kind](self._service, caller, int(number or 0))
            feed.ready = asyncio.create_task(feed.begin())
        feed.users += 1
        return feed

    def _leave(self, page: Page, key: tuple[str, tuple[str, ...]], taken: list[Feed]) -> None:
        channel = self._channels.get(key)
        if channel is not None:
            channel.pages.discard(page)
            if not channel.pages:
                del self._channels[key]
        for feed in taken:
            feed.users -= 1
            if not feed.users:
                feed.close()
        self._feeds = {key: feed for key, feed in self._feeds.items() if feed.users}

    async def _run(self) -> None:
        """Look while anybody is here; not on the account of who was the first to come."""
        METER.set(None)
        while self._channels:
            self._loop.turned(None)
            spent = 0.0
            began = time.perf_counter()
            try:
                spent = await self._look()
                self._hand_out()
            except Exception as error:  # noqa: BLE001 -- pages come back by themselves, this task would not
                await asyncio.sleep(self._loops.note(self._loop, error))
            took = time.perf_counter() - began
            await asyncio.sleep(max(PERIOD_S - took, spent / SHARE - spent))

    async def _look(self) -> float:
        """Ask what is new, for whom it is longest ago first. The seconds that it took, of what is
        dear only a part."""
        try:
            events = await self._events.since()
        except (Rejected, Unavailable):
            # The store cannot answer now: the next pass asks again.
            return 0.0
        spent, now = 0.0, time.monotonic()
        self._rests = {who: until for who, until in self._rests.items() if until > now}
        for (rights, topic), feed in sorted(self._feeds.items(), key=lambda one: one[1].looked):
            if not feed.ready.done():
                continue
            feed.missed = [*feed.missed, *events][-MOST_EVENTS:]
            who, now = rights or topic, time.monotonic()
            if self._rests.get(who, now) > now + PERIOD_S:
                continue
            news, feed.missed, feed.looked = feed.missed, [], now
            # What it waits for others is not its own.
            METER.set(meter := Meter(asyncio.Lock()))
            await self._ask(feed, topic, news)
            METER.set(None)
            took = meter.seconds + BYTE_S * len(feed.fresh)
            self._rests[who] = max(now, self._rests.get(who, now)) + took / SHARE_EACH
            spent += min(took, DEAR_S)
        return spent

    async def _ask(self, feed: Feed, topic: str, entries: Sequence[Entry]) -> None:
        try:
            feed.fresh = await feed.look(entries)
        except (Rejected, Unavailable) as refused:
            feed.fresh = b""
            log.debug("live_refused", topic=topic, why=str(refused))

    def _hand_out(self) -> None:
        now = time.monotonic()
        beat = encoded("beat", {"now": time.time()})
        for channel in self._channels.values():
            frame = b"".join(feed.fresh for feed in channel.feeds)
            if not frame and now - channel.sent_at >= HEARTBEAT_S:
                frame = b": beat\n" + beat
            if not frame:
                continue
            channel.sent_at = now
            for page in list(channel.pages):
                if page.expires and time.time() >= page.expires:
                    page.close()
                else:
                    page.put(frame)
        for feed in self._feeds.values():
            feed.fresh = b""


def _topics(text: str) -> tuple[str, ...]:
    """The topics asked for, in order, each once. Raises Rejected."""
    topics = tuple(dict.fromkeys(topic.strip() for topic in text.split(",") if topic.strip()))
    for topic in topics:
        kind, colon, number = topic.partition(":")
        numbered = kind in ("job", "log")
        good = kind in KINDS and bool(colon) == numbered
        if not good or (
            numbered and not (number.isascii() and number.isdigit() and len(number) < 16)
        ):
            known = "overview, jobs, workers, job:ID, log:ID"
            raise Rejected(
                422, f"no topic {topic[:80]!r}", field="topics", remedy=f"known: {known}"
            )
    if not 0 < len(topics) <= TOPICS:
        raise Rejected(422, f"between 1 and {TOPICS} topics", field="topics")
    return topics
