"""`harvester-edge trace ID`: intent → batch job → worker → jobs, from any of their names.

`ID` is an intent (also INTENT.INDEX), a batch id (also an array's or a cluster's: all its workers),
a worker's id or a job's; what the book does not know is asked of the dispatcher as a job, and
`--job` asks it at once. What the book knows is shown whether a dispatcher answers or not.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from ailurus.output import Output, clock
from ailurus.protocol import messages as m
from harvester_edge.evidence import Worker

if TYPE_CHECKING:
    from harvester_edge.book import Book
    from harvester_edge.site import Site


class Link(msgspec.Struct, kw_only=True):
    """One worker's chain."""

    worker: Worker
    logs: str
    host: str = ""
    jobs: tuple[m.TracedAttempt, ...] = ()
    """Jobs that the worker had, as the dispatcher knows them."""


class TraceAnswer(msgspec.Struct, kw_only=True):
    """What `trace --json` prints."""

    site: str
    job_id: int | None
    attempts: tuple[m.TracedAttempt, ...]
    """Attempts of that job on workers of this site."""
    chain: list[Link]
    note: str = ""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "id", metavar="ID", help="intent, batch id (or an array's), worker id or job id"
    )
    parser.add_argument("--job", action="store_true", help="ID is a job's, whatever else it may be")


def main(args: Namespace, out: Output) -> int:
    """Read, ask, show."""
    from harvester_edge import lint
    from harvester_edge.book import Book

    site = lint.load(args.config)
    with closing(Book(site.state / "book.sqlite", site=site.site, read_only=True)) as book:
        return _trace(args, out, site, book)


def _trace(args: Namespace, out: Output, site: Site, book: Book) -> int:
    from ailurus.protocol.errors import AilurusError
    from harvester_edge import connect
    from harvester_edge.cli.exits import NotFound

    workers = [] if args.job else book.search(args.id)
    job_id = None
    attempts: tuple[m.TracedAttempt, ...] = ()
    # More digits has no job's id.
    if not workers and args.id.isdecimal() and len(args.id) < 19:
        job_id = int(args.id)
        attempts = connect.attempts(site, m.TraceRequest(site=site.site, job_id=job_id))
        workers = [w for one in attempts for w in book.search(str(one.worker_id))]
    if not workers and not attempts:
        raise NotFound(
            f"{args.id} is no intent, batch id or worker of {site.site}, nor a job that one of them had",
            remedy="`harvester-edge workers` lists what is known",
        )
    jobs: dict[int, list[m.TracedAttempt]] = {}
    note = ""
    try:
        ids = tuple({one.worker_id for one in workers if one.worker_id})[:100]
        for one in (
            connect.attempts(site, m.TraceRequest(site=site.site, worker_ids=ids)) if ids else ()
        ):
            jobs.setdefault(one.worker_id, []).append(one)
    except AilurusError as error:
        note = f"the dispatcher was not asked about jobs: {error}"
    chain = [
        Link(
            worker=worker,
            logs=str(site.shared / "workers" / worker.intent / str(worker.index)),
            host=next((one.host for one in jobs.get(worker.worker_id, ())), ""),
            jobs=tuple(jobs.get(worker.worker_id, ())),
        )
        for worker in workers
    ]
    answer = TraceAnswer(site=site.site, job_id=job_id, attempts=attempts, chain=chain, note=note)
    if out.as_json:
        out.document(answer)
    else:
        _show(out, answer)
    return 0


def _show(out: Output, answer: TraceAnswer) -> None:
    for one in answer.attempts:
        out.line(
            f"job {answer.job_id} attempt {one.attempt_nr}: worker {one.worker_id}, {one.state}"
        )
    for link in answer.chain:
        worker = link.worker
        out.pairs(
            [
                ("intent", f"{worker.intent}.{worker.index}"),
                ("slot", f"{worker.slot} (queue {worker.queue})"),
                ("planned", clock(worker.planned)),
                ("submission", worker.outcome or worker.phase),
                ("batch id", worker.batch_id),
                ("running", worker.started and clock(worker.started)),
                ("registered", worker.registered and clock(worker.registered)),
                ("worker", worker.worker_id or ""),
                ("host", link.host),
                ("phase", worker.phase),
                ("ended", worker.ended and f"{clock(worker.ended)}: {worker.ending}"),
                ("said", worker.diagnosis),
                ("logs", link.logs),
            ]
        )
        for one in link.jobs:
            ended = f"{one.state} {clock(one.ended)}" if one.ended else one.state
            code = f", code {one.code}" if one.code else ""
            out.line(f"  job {one.job_id} attempt {one.attempt_nr}: {ended}{code}")
        out.line()
    if answer.note:
        out.line(f"note: {answer.note}")
