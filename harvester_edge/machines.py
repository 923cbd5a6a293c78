"""What kinds of machines a site's slots have: as the site file says, and as their pilots told.

A pilot knows better: what those of a slot told last is kept in the book, and counts in place of
what the file said then, for a day after the last of them: it may have been an odd node, or a driver
that failed. Or until the file says something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from ailurus.protocol.hardware import Hardware, in_words
from ailurus.protocol.messages import WorkerRow
from harvester_edge.book import Book
from harvester_edge.evidence import Worker
from harvester_edge.site import Site
from harvester_edge.upstream import Key

KEPT_S = 86_400.0
AGAIN_S = 3600.0
"""So often it is written that they still tell the same."""


class Told(Struct, frozen=True):
    """What the pilots of a slot told last, what the file said then, and when that was."""

    said: Hardware
    told: tuple[Hardware, ...]
    at: float


_decode = msgspec.json.Decoder(Told).decode
_encode = msgspec.json.Encoder().encode


def note(
    book: Book,
    site: Site,
    workers: Mapping[Key, Worker],
    rows: Iterable[WorkerRow],
    now: float,
) -> None:
    """Keep what the pilots of slots tell of which the file says what they are. Raises
    BookUnwritable."""
    found: dict[str, dict[Hardware, None]] = {}
    for row in rows:
        worker = workers.get((row.intent, row.index))
        if worker is not None and row.hardware is not None and row.total.cores:
            found.setdefault(worker.slot, {})[row.hardware] = None
    for name, told in found.items():
        slot = site.slots.get(name)
        if slot is None or slot.hardware is None:
            continue
        kept = _kept(book, name)
        if (
            kept is None
            or (kept.said, set(kept.told)) != (slot.hardware, set(told))
            or now - kept.at > AGAIN_S
        ):
            text = _encode(Told(slot.hardware, tuple(told), now)).decode()
            book.set_meta(_key(name), text)


def known(book: Book, site: Site, slot: str, now: float) -> tuple[Hardware, ...]:
    """What kinds of machines a slot has; empty: nobody knows."""
    said = site.slots[slot].hardware
    return () if said is None else _told(book, slot, said, now) or (said,)


def wrong(book: Book, site: Site, now: float) -> Iterator[str]:
    """What the file says of machines and their pilots deny."""
    for name, slot in site.slots.items():
        if (said := slot.hardware) is not None:
            told = _told(book, name, said, now)
            faults = {fault for one in told for fault in denied(said, one)}
            yield from (f"slot {name}: its pilots tell {fault}" for fault in sorted(faults))


def denied(said: Hardware, told: Hardware) -> Iterator[str]:
    """In what a pilot's machine is another one, or has less than is said."""
    if told.arch != said.arch:
        yield f"{told.arch or 'no architecture'}, its `machine` says {said.arch}"
    if not told.gpus or not said.gpus:
        # That there are fewer is a matter of room.
        return
    model = said.gpus[0]
    if any(one.model != model.model for one in told.gpus):
        yield f"{_gpus(told)}, its `machine` says {model.model}"
    if 0 < (least := min(one.memory_mb for one in told.gpus)) < model.memory_mb:
        yield f"{least} MB of GPU memory, its `machine` says {model.memory_mb} MB"
    if told.cuda != said.cuda:
        yield f"CUDA {told.cuda or 'unknown'}, its `machine` says {said.cuda or 'none'}"


def _gpus(told: Hardware) -> str:
    return in_words(Hardware(gpus=told.gpus))


def _told(book: Book, slot: str, said: Hardware, now: float) -> tuple[Hardware, ...]:
    """What pilots told lately, while the file said this."""
    kept = _kept(book, slot)
    if kept is None or kept.said != said or now - kept.at > KEPT_S:
        return ()
    return kept.told


def _kept(book: Book, slot: str) -> Told | None:
    """None also for what another version wrote."""
    try:
        return _decode(book.meta(_key(slot)))
    except msgspec.DecodeError:
        return None


def _key(slot: str) -> str:
    return f"machine of {slot}"
