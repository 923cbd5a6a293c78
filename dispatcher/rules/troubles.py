"""What somebody should look at: silent edges, paused sites, lost pilots, queues that nobody serves.
Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from ailurus.protocol.messages import SiteRow, Trouble
from dispatcher.memory.losses import Loss

# A silent edge is a trouble for so long, though no job waits for its site.
FORGOTTEN_S = 86_400.0
ORDINARY = frozenset(
    {
        "demand",
        "floor",
        "total",
        "queued",
        "queued_ratio",
        "attenuation",
        "per_cycle",
        "slots",
        "unlisted",
    }
)
"""Bounds on a site's pilots that bind while all is well. Any other is a reason to look."""
# So long a job may wait before its queue counts as served by nobody.
GRACE_S = 10.0


class Seen(Struct, frozen=True, kw_only=True):
    """What there is to judge."""

    now: float
    sites: Sequence[SiteRow]
    # Workers by queue.
    serving: Mapping[str, int]
    # By queue: since when its most silent pilot, late by now, says nothing.
    silent: Mapping[str, float]
    silent_count: int = 0
    losses: Sequence[Loss] = ()


def of_supply(seen: Seen) -> list[Trouble]:
    """What is wrong with those that serve queues, whoever's jobs wait; worst first."""
    found = [trouble for site in seen.sites for trouble in _of_site(site, seen.now)]
    found.sort(key=lambda trouble: trouble.kind != "edge-silent")
    return [*found, *_of_pilots(seen), *_of_nodes(seen.sites)]


def _of_site(site: SiteRow, now: float) -> Iterator[Trouble]:
    if not site.heard:
        yield Trouble(
            kind="edge-silent",
            sentence=f"the edge of site {site.site} is silent: nobody starts pilots there",
            remedy="is `harvester-edge run` alive, and does it reach the dispatcher?",
            since=site.last_heard,
            site=site.site,
            queues=site.queues,
        )
    elif not site.online or (site.word is not None and site.word.binding == "paused"):
        why = f" ({site.word.sentence})" if site.word is not None else ""
        yield Trouble(
            kind="site-paused",
            sentence=f"site {site.site} is paused: it starts no pilots{why}",
            remedy=f"`harvester-edge resume`, or `policy.status: online` in the file of {site.site}",
            site=site.site,
            queues=site.queues,
        )
    elif site.word is not None and site.word.binding not in ORDINARY:
        yield Trouble(
            kind="site-held",
            sentence=f"site {site.site} starts no more pilots: {site.word.sentence}",
            remedy="`harvester-edge why` says more",
            since=site.word.at,
            site=site.site,
            queues=site.queues,
        )


def _of_pilots(seen: Seen) -> Iterator[Trouble]:
    by_place: dict[tuple[str, str], list[Loss]] = {}
    for loss in seen.losses:
        by_place.setdefault((loss.site, loss.queue), []).append(loss)
    for (site, queue), lost in sorted(by_place.items(), key=lambda one: -len(one[1])):
        how = ", ".join(f"{n} {ending}" for ending, n in Counter(_ending(x) for x in lost).items())
        place = f" at {site}" if site else ""
        hosts = sorted({loss.host for loss in lost if loss.host})
        on = (
            f", on {hosts[0]}" + (f" and {len(hosts) - 1} others" if hosts[1:] else "")
            if hosts
            else ""
        )
        yield Trouble(
            kind="pilots-lost",
            sentence=f"{_number(len(lost), 'pilot')} of queue {queue or '(any)'}{place} ended badly: {how}{on}",
            remedy="its jobs go to others; look at the node, and at the pilot's log",
            since=max(loss.at for loss in lost),
            site=site,
            queues=(queue,),
        )
    if seen.silent_count:
        yield Trouble(
            kind="pilots-silent",
            sentence=f"{_number(seen.silent_count, 'pilot')} missed a heartbeat",
            since=min(seen.silent.values()),
            queues=tuple(sorted(seen.silent)),
        )


def _of_nodes(sites: Sequence[SiteRow]) -> Iterator[Trouble]:
    for site in sites:
        if site.excluded:
            nodes = ", ".join(site.excluded[:5]) + (" …" if site.excluded[5:] else "")
            yield Trouble(
                kind="nodes-excluded",
                sentence=f"{_number(len(site.excluded), 'node')} of site {site.site} get no jobs: {nodes}",
                remedy="`dispatcher events` says why",
                site=site.site,
                queues=site.queues,
            )


def worth_telling(trouble: Trouble, waiting: Mapping[str, int], now: float) -> bool:
    """Whether a trouble of supply matters to the jobs that wait, by queue: a site that was closed
    long ago, or is held while nothing waits for it, harms nobody."""
    wanted = any(waiting.get(queue) for queue in (*trouble.queues, ""))
    if trouble.kind == "edge-silent":
        return wanted or (trouble.since or 0.0) > now - FORGOTTEN_S
    return wanted or trouble.kind != "site-held"


def unserved(
    waiting: Mapping[str, int],
    serving: Mapping[str, int],
    oldest: Mapping[str, float],
    now: float,
) -> Iterator[Trouble]:
    """Queues in which jobs wait and no pilot works. `oldest`: since when, where that is known."""
    for queue, n in sorted(waiting.items(), key=lambda one: -one[1]):
        served = sum(serving.values()) if queue == "" else serving.get(queue, 0)
        if n and not served and oldest.get(queue, 0.0) < now - GRACE_S:
            wait = "job waits" if n == 1 else "jobs wait"
            yield Trouble(
                kind="unserved",
                sentence=f"{queue or 'any queue'}: {n} {wait} and no pilot serves it",
                since=oldest.get(queue),
                queues=(queue,),
            )


def _ending(loss: Loss) -> str:
    return loss.ending.replace("_", " ")


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
