"""Which jobs a verb means: numbers and ranges of them, or all that a filter finds."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from msgspec import Struct

from ailurus.output import Output, clean
from dispatcher.cli.exits import NO_INPUT, USAGE, CommandError
from dispatcher.cli.words import job_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailurus.protocol.messages import JobRow
    from ailurus.wire.client import Client

PAGE = 1000
AT_ONCE = 100_000
"""Jobs that one request may name."""
_FILTERS = ("query", "state", "queue", "name", "user", "code", "kind")


class _Number(Struct):
    """A job of which no more is known."""

    job_id: int


def filters(parser: ArgumentParser) -> None:
    """Options that say which jobs to list."""
    parser.add_argument(
        "--query", metavar="TEXT", help="as in `state:failed age<2h`: docs/query.md"
    )
    parser.add_argument("--state", metavar="S[,S]", help="only in these states")
    parser.add_argument("--queue", help="only of this queue")
    parser.add_argument("--name", help="only of this name; a final * stands for any end")
    parser.add_argument("--user", help="only of this user")
    parser.add_argument("--code", type=int, help="only with this PanDA error code")
    parser.add_argument(
        "--kind", type=int, help="only failures of this kind, as `dispatcher status` numbers them"
    )


def arguments(parser: ArgumentParser) -> None:
    """Options that say which jobs to act on."""
    parser.add_argument("ids", nargs="*", type=span, metavar="ID", help="a number, or 3-9")
    filters(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the jobs, and do nothing")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def span(text: str) -> range:
    """The jobs in `7` or `3-9`. Raises ArgumentTypeError."""
    first, dash, last = text.partition("-")
    found = range(job_id(first), job_id(last if dash else first) + 1)
    if not 0 < len(found) <= AT_ONCE:
        raise ArgumentTypeError(f"{text!r} is no range of 1 to {AT_ONCE:,} jobs")
    return found


def listed(client: Client, args: Namespace, limit: int) -> tuple[list[JobRow], int | None]:
    """Jobs that the filters find, newest first, and where to go on, if there are more."""
    from ailurus.protocol.api import JobsQuery

    rows: list[JobRow] = []
    before: int | None = None
    said = {name: getattr(args, name) for name in _FILTERS}
    wanted = {name: value for name, value in said.items() if value is not None}
    while len(rows) < limit:
        query = JobsQuery(**wanted, before=before, limit=min(PAGE, limit - len(rows)))
        page = client.jobs(query)
        rows += page.jobs
        before = page.next
        if before is None:
            break
    return rows, before


def chosen(
    client: Client, args: Namespace, out: Output, verb: str, states: Sequence[str]
) -> list[int]:
    """The jobs that `verb` is to act on, oldest first; none if it was a dry run, or the user said
    no. A filter without --state means those in `states`. Raises CommandError."""
    ids = sorted({one for group in args.ids for one in group})
    filtered = [name for name in _FILTERS if getattr(args, name) is not None]
    for name in filtered:
        # A variable of a shell that is not set: without this filter it would be all jobs.
        if not str(getattr(args, name)).strip(" ,"):
            raise CommandError(
                USAGE, f"--{name} is blank", remedy=f"leave it out to {verb} jobs of any {name}"
            )
    if bool(ids) == bool(filtered):
        raise CommandError(
            USAGE,
            f"{'both numbers and filters say' if ids else 'nothing says'} which jobs to {verb}",
            remedy="give numbers, 3-9 say, or filters as of `dispatcher jobs`: --name 'sweep*'",
        )
    if len(ids) > AT_ONCE:
        raise CommandError(USAGE, f"more than {AT_ONCE:,} jobs at once", remedy="name fewer")
    if ids and not args.dry_run:
        return ids
    if ids:
        _show_numbers(ids, out)
        return []
    if args.state is None and not _speaks_of_state(args.query or ""):
        args.state = ",".join(states)
    rows, more = listed(client, args, AT_ONCE)
    if not rows:
        raise CommandError(
            NO_INPUT, f"no job to {verb} is like that", remedy="see `dispatcher jobs`"
        )
    if args.dry_run:
        _show(rows, out)
    # What is left wants the command again.
    many = f"{'the newest ' if more else ''}{len(rows):,}"
    users = sorted({row.user for row in rows})
    whose = f" of {', '.join(users[:5])}{' and others' * (len(users) > 5)}" * (len(users) > 1)
    if args.dry_run or not (args.yes or _agreed(f"{verb} {many} jobs{whose}")):
        return []
    return sorted(row.job_id for row in rows)


def _speaks_of_state(text: str) -> bool:
    """Whether a query says itself which states it means. Raises AilurusError."""
    from ailurus.protocol.query import fields_of
    from ailurus.protocol.query_text import parse

    return "state" in fields_of(parse(text))


def _show_numbers(ids: Sequence[int], out: Output) -> None:
    if out.as_json:
        for one in ids:
            out.record(_Number(job_id=one))
        return
    out.table(["job"], ((one,) for one in ids))


def _show(rows: Sequence[JobRow], out: Output) -> None:
    if out.as_json:
        for row in rows:
            out.record(row)
        return
    cells = ((r.job_id, r.name, r.state, r.queue, r.user, r.diagnosis) for r in rows)
    out.table(["job", "name", "state", "queue", "user", "diagnosis"], cells)


def _agreed(what: str) -> bool:
    """Whether the user at the terminal wants it. Raises CommandError where there is none."""
    if not sys.stdin.isatty():
        raise CommandError(
            USAGE, f"this would {what}", remedy="say --yes if you mean it, or --dry-run to see them"
        )
    sys.stderr.write(clean(f"{what}? [y/N] "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
