"""`dispatcher usage`: what jobs asked for and what they took, by user, site, queue or label."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ailurus.output import Output
from dispatcher.cli.connection import connect
from dispatcher.cli.words import moment, span

if TYPE_CHECKING:
    from ailurus.protocol.messages import UsageRow, UsageSums

HOUR_S = 3600
GB_HOUR = 1000 * HOUR_S


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        default="user",
        metavar="WHAT",
        help="user, site, queue or label:NAME; several separated by commas (default %(default)s)",
    )
    parser.add_argument(
        "--since", type=span, metavar="TIME", help="that ended in the last 24h, say (default 7d)"
    )
    parser.add_argument("--until", type=moment, metavar="WHEN", help="that ended before")
    parser.add_argument("--user", default="", help="only of this user")
    parser.add_argument("--site", default="", help="only at this site")
    parser.add_argument("--queue", default="", help="only of this queue")
    parser.add_argument("--label", default="", metavar="NAME=VALUE", help="only of these jobs")
    parser.add_argument("--limit", type=int, default=50, help="rows (default %(default)s)")


def main(args: Namespace, out: Output) -> int:
    """Ask for the sums and show them, the greatest first."""
    from ailurus.protocol.accounting import UsageQuery
    from ailurus.protocol.messages import UsageSums

    ask = UsageQuery(
        by=args.by,
        since=0.0 if args.since is None else max(1.0, time.time() - args.since),
        until=args.until or 0.0,
        user=args.user,
        site=args.site,
        queue=args.queue,
        label=args.label,
        limit=args.limit,
    )
    answer = connect(args).call("usage", ask, answer=UsageSums)
    if out.as_json:
        out.document(answer)
        return 0
    show(answer, args.by.replace("label:", ""), out)
    return 0


def show(answer: UsageSums, by: str, out: Output) -> None:
    """The rows as a table, then what was for nothing and why, then what pilots say."""
    names = [name for name in by.split(",") if name]
    rows = [*answer.rows, answer.total]
    gpus = any(row.gpu_s for row in rows)
    head = ["core h", "used", "wasted", "wall h", "GB h", "at peak", "attempts", "failed"]
    out.table(
        [*names, *head[:3], *(["GPU h"] if gpus else []), *head[3:]],
        [[*_key(row, names, answer), *_cells(row, gpus=gpus)] for row in rows],
    )
    if answer.more:
        out.line(f"and {answer.more} more rows (--limit)")
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(answer.since))
    out.line(f"attempts that ended since {began}")
    for title, sums in (("wasted", answer.total.wasted_core_s), ("pilots", _pilots(answer.total))):
        if parts := ", ".join(f"{word} {hours(core_s)} h" for word, core_s in _most(sums)):
            out.line(f"{title}: {parts}")


def hours(seconds: float) -> str:
    """Core-seconds as hours, in three digits or more."""
    found = seconds / HOUR_S
    return f"{found:.0f}" if found >= 100 or found == 0 else f"{found:.3g}"


def _key(row: UsageRow, names: list[str], answer: UsageSums) -> list[str]:
    if row is answer.total:
        return ["all", *[""] * (len(names) - 1)] if names else []
    # One that asks by a label is answered by the word `label`.
    return [row.key.get(name, row.key.get("label", "")) or "–" for name in names]


def _cells(row: UsageRow, *, gpus: bool) -> Iterator[object]:
    yield hours(row.core_s)
    yield _share(row.cpu_s, row.core_s)
    yield _share(sum(row.wasted_core_s.values()), row.core_s)
    if gpus:
        yield hours(row.gpu_s)
    yield hours(row.wall_s)
    yield f"{row.memory_mb_s / GB_HOUR:.3g}"
    yield _share(row.peak_mb_s, row.memory_mb_s)
    yield row.attempts
    yield _share(row.attempts - row.finished, row.attempts)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else ""


def _pilots(total: UsageRow) -> dict[str, float]:
    words = {"busy": "busy", "nothing": "idle without a job"}
    return {
        words.get(reason, f"idle: {reason.replace('_', ' ')}"): core_s
        for reason, core_s in total.pilot_core_s.items()
    }


def _most(sums: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(((word, s) for word, s in sums.items() if s > 0), key=lambda one: -one[1])
