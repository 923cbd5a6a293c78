"""Which jobs a verb means: numbers and ranges of them, or all that a filter finds."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ailurus.output import Output, clean
from dispatcher.cli.exits import NO_INPUT, USAGE, CommandError
from dispatcher.cli.words import job_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailurus.protocol.messages import Acted, Counted, JobRow, Many
    from ailurus.wire.client import Client

PAGE = 1000
AT_ONCE = 100_000
"""Jobs that one request may name."""
ANSWER_S = 10.0
"""So long an answer may take that tells how far it is."""
PHRASES = {"priority": "change the priority of"}
"""Verbs that are no words for it in a sentence."""
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


class Chosen(Struct):
    """The jobs that a verb is to act on: named, or those that matched a query when they were
    counted."""

    ids: list[int]
    query: str = ""
    counted: Counted | None = None


def chosen(
    client: Client, args: Namespace, out: Output, verb: str, states: Sequence[str]
) -> Chosen | None:
    """The jobs that `verb` is to act on; None if it was a dry run, or the user said no. A filter
    that does not speak of states means those in `states`. Raises CommandError."""
    ids = sorted({one for group in args.ids for one in group})
    filtered = [name for name in _FILTERS if getattr(args, name) is not None]
    for name in filtered:
        # A variable of a shell that is not set: without this filter it would be all jobs.
        if not str(getattr(args, name)).strip(" ,"):
            remedy = f"leave it out to {verb} jobs of any {name}"
            if name == "query":
                remedy = f"say which jobs to {verb}: --query 'label:campaign=mc23 age<1d'"
            raise CommandError(USAGE, f"--{name} is blank", remedy=remedy)
    if bool(ids) == bool(filtered):
        raise CommandError(
            USAGE,
            f"{'both numbers and filters say' if ids else 'nothing says'} which jobs to {verb}",
            remedy="give numbers, 3-9 say, or filters as of `dispatcher jobs`: --name 'sweep*'",
        )
    if len(ids) > AT_ONCE:
        raise CommandError(USAGE, f"more than {AT_ONCE:,} jobs at once", remedy="name fewer")
    if ids and not args.dry_run:
        return Chosen(ids)
    if ids:
        _show_numbers(ids, out)
        return None
    if args.state is None and not _speaks_of_state(args.query or ""):
        args.state = ",".join(states)
    return _found(client, args, out, verb)


def _found(client: Client, args: Namespace, out: Output, verb: str) -> Chosen | None:
    """The jobs that the filters find, counted, and agreed to. Raises CommandError."""
    from ailurus.protocol import filters
    from ailurus.protocol.api import Filter

    said = {name: getattr(args, name) for name in _FILTERS}
    which = Filter(**{name: value for name, value in said.items() if value is not None})
    counted = client.count(which)
    if not counted.jobs:
        raise CommandError(
            NO_INPUT, f"no job to {verb} is like that", remedy="see `dispatcher jobs`"
        )
    if args.dry_run:
        rows, more = listed(client, args, AT_ONCE)
        _show(rows, out)
        if more is not None:
            sys.stderr.write(f"the newest {len(rows):,} of {counted.jobs:,} jobs\n")
        return None
    many = f"{'at least ' if counted.cut else ''}{counted.jobs:,}"
    users = sorted(counted.users)
    others = " and others" * (counted.owners > len(users))
    whose = f" of {', '.join(users)}{others}" * (counted.owners > 1)
    phrase = PHRASES.get(verb, verb)
    if not (args.yes or _agreed(f"{phrase} {many} jobs{whose}")):
        return None
    return Chosen([], filters.text(which), counted)


def carry(client: Client, route: str, what: Chosen, kind: type[Many], **given: object) -> Acted:
    """Do it to what was chosen, until it is done to all; what is asked again goes on."""
    import uuid

    counted = what.counted
    ask = kind(
        request_id=uuid.uuid4().hex,
        job_ids=tuple(what.ids),
        query=what.query,
        last=counted.last if counted else None,
        at=counted.at if counted else None,
        jobs=counted.jobs if counted else None,
        **given,
    )
    return repeated(client, route, ask)


def repeated(client: Client, route: str, ask: Struct) -> Acted:
    """Ask until it is done to all; whatever was done meanwhile."""
    from ailurus.protocol.messages import Acted

    job_ids: tuple[int, ...] = ()
    new_ids: tuple[int, ...] = ()
    reasons: dict[str, None] = {}
    while True:
        answer = client.call(route, ask, answer=Acted, wait_s=ANSWER_S)
        job_ids, new_ids = job_ids + answer.job_ids, new_ids + answer.new_ids
        reasons |= dict.fromkeys(answer.reasons)
        if answer.ended:
            return replace(answer, job_ids=job_ids, new_ids=new_ids, reasons=tuple(reasons))
        if sys.stderr.isatty():
            sys.stderr.write(clean(f"{answer.verb}: {answer.done:,} jobs so far\n"))


def show_reasons(answer: Acted) -> None:
    """Say on stderr how many jobs stayed as they were, and why."""
    if answer.kept:
        why = f": {'; '.join(answer.reasons)}" if answer.reasons else ""
        sys.stderr.write(clean(f"{answer.kept:,} jobs stayed as they were{why}\n"))


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
