"""The payloads that a job carries, for people: in numbers, in lists, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ailurus.output import Output, clock, span
from ailurus.protocol.item import ItemState

if TYPE_CHECKING:
    from ailurus.protocol.messages import ItemCounts, ItemPage, ItemRow
    from ailurus.wire.client import Client

PAGE = 1000
COLUMNS = (
    "item",
    "name",
    "state",
    "attempt",
    "host",
    "slot",
    "started",
    "ran",
    "exit",
    "diagnosis",
)


def summary(counts: ItemCounts) -> str:
    """The payloads of a job in one line."""
    numbers = [(getattr(counts, state), state) for state in ItemState]
    parts = [f"{counts.total:,}", *(f"{number:,} {state}" for number, state in numbers if number)]
    if counts.needed != counts.total:
        parts.append(f"{counts.needed:,} must finish")
    if counts.moved_to:
        parts.append(f"job {counts.moved_to} goes on with them")
    return ", ".join(parts)


def listing(client: Client, job_id: int, state: str, out: Output) -> None:
    """List the payloads of a job, page by page."""
    after, first = -1, True
    while True:
        page = _page(client, job_id, state, after)
        if out.as_json:
            for row in page.items:
                out.record(row)
        elif page.items or first:
            out.table(COLUMNS, (_cells(row) for row in page.items))
        if page.next is None:
            return
        after, first = page.next, False


def timeline(client: Client, job_id: int, out: Output) -> None:
    """Show when the payloads of a job ran, on which nodes."""
    from ailurus.protocol.api import TimelineQuery
    from ailurus.protocol.messages import Timeline
    from dispatcher.cli import lanes

    ask = TimelineQuery(parts=lanes.PARTS)
    seen = client.call("job_timeline", ask, answer=Timeline, job_id=job_id)
    if out.as_json:
        out.document(seen)
    else:
        lanes.show(seen, out)


def _page(client: Client, job_id: int, state: str, after: int) -> ItemPage:
    from ailurus.protocol.api import ItemsQuery

    return client.items(job_id, ItemsQuery(state=state, after=after, limit=PAGE))


def _cells(row: ItemRow) -> tuple[object, ...]:
    ran = row.ended - row.started if row.ended and row.started else None
    return (
        row.index, row.name, row.state, row.attempt or "-", row.host, row.slot, clock(row.started),
        span(ran), "-" if row.exit_code is None else row.exit_code, row.diagnosis,
    )  # fmt: skip


def show(client: Client, job_id: int, index: int, out: Output) -> None:
    """Show one payload."""
    item = client.item(job_id, index)
    if out.as_json:
        out.document(item)
        return
    row, spec = item.row, item.spec
    ran = row.ended - row.started if row.ended and row.started else None
    usage = item.usage
    out.pairs(
        [
            ("payload", f"{job_id}.{index} {row.name}".rstrip()),
            ("state", row.state),
            ("why", item.why),
            ("remedy", item.remedy),
            ("attempt", row.attempt or ""),
            ("failures", item.failures or ""),
            ("lost nodes", item.lost or ""),
            ("where", f"{row.host} {row.slot}".strip()),
            ("started", clock(row.started) if row.started else ""),
            ("ran", span(ran) if ran is not None else ""),
            ("exit code", "" if row.exit_code is None else row.exit_code),
            (
                "used",
                f"{usage.cpu_s:.1f} s of CPU, {usage.max_rss_kb / 1e3:.0f} MB" if usage else "",
            ),
            ("command", spec.command),
            ("arguments", " ".join(spec.arguments)),
            ("leaves", " ".join(one.name for one in spec.outputs)),
            ("asks for", _wants(spec.cores, spec.memory_mb, spec.gpus)),
        ]
    )
    if item.files:
        out.line()
        files = ((one.name, one.size, one.adler32, one.url) for one in item.files)
        out.table(["file", "bytes", "adler32", "url"], files)
    if item.stderr_tail:
        out.line("\nend of stderr:")
        out.line(item.stderr_tail.rstrip("\n"))


def _wants(cores: int, memory_mb: int | None, gpus: int) -> str:
    parts = [f"{cores} cores"]
    parts += [f"{memory_mb} MB"] if memory_mb else []
    parts += [f"{gpus} GPUs"] if gpus else []
    return ", ".join(parts)
