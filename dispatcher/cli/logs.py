"""`dispatcher logs ID`: a job's output, live with --follow."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, clean
from ailurus.protocol.item import FINAL_ITEM
from ailurus.protocol.states import WITH_WORKER, AttemptState
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import NO_INPUT, OK

if TYPE_CHECKING:
    from ailurus.protocol.messages import JobDetail, LogChunk
    from ailurus.wire.client import Client

WAIT_S = 20.0


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import item_id

    parser.add_argument("id", type=item_id, metavar="ID", help="of a job, or JOB.ITEM of a payload")
    parser.add_argument("--follow", "-f", action="store_true", help="until the attempt has ended")
    parser.add_argument("--stream", choices=["stdout", "stderr"], default="stdout")
    parser.add_argument("--attempt", type=int, metavar="N", help="default: the latest")


def main(args: Namespace, out: Output) -> int:
    """Print what is there; with --follow, then what comes. What is not there is said on stderr."""
    from ailurus.protocol.api import LogQuery

    client = connect(args, patience_s=60.0)
    job_id, item = args.id
    args = Namespace(**{**vars(args), "id": job_id, "item": item})
    attempt, offset, wait_s = args.attempt, 0, 0.0
    printed = waited = False
    while True:
        query = LogQuery(
            stream=args.stream, attempt_nr=attempt, offset=offset, wait_s=wait_s, item=args.item
        )
        chunk = client.log(args.id, query)
        # One after the other: their offsets are their own.
        attempt = chunk.attempt_nr or attempt
        if out.as_json:
            out.record(chunk)
        else:
            out.raw(_cut(chunk.skipped, printed) + chunk.text)
        printed |= bool(chunk.text)
        moved = chunk.end > offset
        offset = chunk.end
        if args.item is not None:
            if chunk.final or not args.follow:
                if not (printed or chunk.skipped):
                    _say_of_item(client, job_id, args)
                return OK
            wait_s = WAIT_S
            continue
        asks = not (args.follow or waited or chunk.final or offset) and _running(client, args)
        if not moved and (chunk.final or not (args.follow or asks)):
            code, later = _ended(client, args, chunk)
            if not (args.follow and args.attempt is None and later):
                return code
            _say(f"attempt {attempt} of job {args.id} has ended; this is attempt {later}")
            attempt, offset, printed = later, 0, False
        waited |= asks
        wait_s = WAIT_S if (args.follow or asks) and not chunk.final else 0.0


def _running(client: Client, args: Namespace) -> bool:
    """Whether a pilot has the job, and so may have output that it sends only when somebody
    looks."""

    job = client.show(args.id)
    if job.row.state not in WITH_WORKER or args.attempt not in (None, job.row.attempt_nr):
        return False
    _say(f"job {args.id} is {job.row.state}; its pilot is asked for its output")
    return True


def _cut(missing: int, after: bool) -> str:
    """A line where bytes are missing."""
    return f"{chr(10) if after else ''}[{missing:,} bytes are not kept here]\n" if missing else ""


def _ended(client: Client, args: Namespace, last: LogChunk) -> tuple[int, int]:
    """Say what of the output is missing, and where it is. The exit code, which is 66 if there was
    some and none of it is here, and the attempt that has begun meanwhile; 0: none."""
    job = client.show(args.id)
    later = job.attempts[-1].attempt_nr if job.attempts else 0
    later = later if 0 < last.attempt_nr < later else 0
    if not last.kept and not last.size:
        _say(_why_nothing(job, args))
        return OK, later
    if last.final and last.size > last.kept:
        some = f"{last.kept:,} of the {last.size:,} bytes of {args.stream} are kept here"
        _say(f"job {args.id}: {some}; {_elsewhere(job)}")
    return (OK if last.kept else NO_INPUT), later


def _elsewhere(job: JobDetail) -> str:
    from ailurus.protocol.job import LOG

    whole = [file.url for file in job.files if file.name == LOG]
    if whole:
        return f"the log of the attempt is in {whole[0]}"
    return "submit it with `log: whole` to have more of it kept"


def _why_nothing(job: JobDetail, args: Namespace) -> str:
    """An empty output needs no words, unless another place has some or nothing has run."""
    row, attempts = job.row, [a for a in job.attempts if args.attempt in (None, a.attempt_nr)]
    if not attempts:
        return f"job {row.job_id} is {row.state}, and has not run"
    last = attempts[-1]
    if last.state == AttemptState.LOST:
        return f"attempt {last.attempt_nr} of job {row.job_id} is lost, and its output with it"
    if last.ended is None:
        return f"job {row.job_id} is {row.state}, and has written nothing to {args.stream} yet"
    other = "stderr" if args.stream == "stdout" else "stdout"
    if last.usage is not None and getattr(last.usage, f"{other}_bytes"):
        return f"job {row.job_id} wrote nothing to {args.stream}; try --stream {other}"
    return ""


def _say_of_item(client: Client, job_id: int, args: Namespace) -> None:
    """An empty output of a payload, likewise."""
    item = client.item(job_id, args.item)
    if item.row.state not in FINAL_ITEM:
        _say(f"payload {job_id}.{args.item} has written nothing yet: {item.why}")
        return
    other = "stderr" if args.stream == "stdout" else "stdout"
    if getattr(item, f"{other}_tail"):
        _say(f"payload {job_id}.{args.item} wrote nothing to {args.stream}; try --stream {other}")


def _say(what: str) -> None:
    if what:
        sys.stderr.write(clean(f"dispatcher: {what}\n"))
