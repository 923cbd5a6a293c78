"""`harvester-edge trace ID`: intent → batch job → worker → jobs, from any of their names.

`ID` is an intent (also INTENT.INDEX), a batch id or a worker's id; a job's id is asked of the dispatcher,
as `--job`. What the book knows is shown whether a dispatcher answers or not.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ailurus.output import Output, clock
from ailurus.protocol import messages as m
from harvester_edge.evidence import Worker

if TYPE_CHECKING:
    from ailurus.wire.client import Client
    from harvester_edge.site import Site


class Link(msgspec.Struct, kw_only=True):
    """One worker's chain."""

    worker: Worker
    logs: str
    jobs: tuple[int, ...] = ()  # that it holds now, by the dispatcher's word
    host: str = ""


class TraceAnswer(msgspec.Struct, kw_only=True):
    """What `trace --json` prints."""

    site: str
    job_id: int | None
    attempts: tuple[m.Attempt, ...]
    chain: list[Link]
    note: str = ""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "id", metavar="ID", help="intent, batch id, worker id, or with --job a job id"
    )
    parser.add_argument("--job", action="store_true", help="ID is a job's")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a token that may read jobs (AILURUS_TOKEN_FILE); default: the edge's",
    )


def main(args: Namespace, out: Output) -> int:
    """Read, ask, show."""
    from ailurus.wire.client import WireError
    from harvester_edge import lint
    from harvester_edge.book import Book
    from harvester_edge.cli.exits import NotFound

    site = lint.load(args.config)
    book = Book(site.state / "book.sqlite", site=site.site, read_only=True)
    attempts: tuple[m.Attempt, ...] = ()
    note = ""
    if args.job:
        attempts = _client(site, args.token_file).show(int(args.id)).attempts
        workers = [w for one in attempts for w in book.search(str(one.worker_id)) if one.worker_id]
    else:
        workers = book.search(args.id)
    if not workers and not attempts:
        raise NotFound(f"{args.id} is no intent, batch id or worker of {site.site}",
                       remedy="a job's id needs --job; `harvester-edge workers` lists what is known")  # fmt: skip
    rows: dict[int, m.WorkerRow] = {}
    try:
        rows = _rows(site, args.token_file)
    except WireError as error:
        note = f"the dispatcher was not asked about jobs: {error}"
    chain = [
        Link(
            worker=worker,
            logs=str(site.shared / "workers" / worker.intent / str(worker.index)),
            jobs=rows[worker.worker_id].jobs if worker.worker_id in rows else (),
            host=rows[worker.worker_id].host if worker.worker_id in rows else "",
        )
        for worker in workers
    ]
    answer = TraceAnswer(
        site=site.site,
        job_id=int(args.id) if args.job else None,
        attempts=attempts,
        chain=chain,
        note=note,
    )
    if out.as_json:
        out.document(answer)
    else:
        _show(out, answer)
    return 0


def _client(site: Site, token_file: Path | None) -> Client:
    from ailurus.wire.client import Client, TokenFile
    from ailurus.wire.retry import Patience
    from harvester_edge.edge import trust
    from harvester_edge.site import expanded

    named = token_file or os.environ.get("AILURUS_TOKEN_FILE")
    token = TokenFile(Path(named or expanded(site.dispatcher.token_file)))
    return Client(site.dispatcher.url, token, patience=Patience(total_s=0.0), trust=trust(site))


def _rows(site: Site, token_file: Path | None) -> dict[int, m.WorkerRow]:
    from ailurus.protocol.api import WorkerRows, WorkersQuery

    query = WorkersQuery(site=site.site, ended=True, limit=10_000)
    answer = _client(site, token_file).call("workers", query, answer=WorkerRows)
    return {row.worker_id: row for row in answer.workers}


def _show(out: Output, answer: TraceAnswer) -> None:
    for one in answer.attempts:
        out.line(
            f"job {answer.job_id} attempt {one.attempt_nr}: worker {one.worker_id}, {one.state}"
        )
    for link in answer.chain:
        worker = link.worker
        out.facts(
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
                ("jobs now", " ".join(map(str, link.jobs))),
                ("phase", worker.phase),
                ("ended", worker.ended and f"{clock(worker.ended)}: {worker.ending}"),
                ("said", worker.diagnosis),
                ("logs", link.logs),
            ]
        )
        out.line()
    if answer.note:
        out.line(f"note: {answer.note}")
