"""`dispatcher submit FILE…`: jobs from YAML or JSON. Repeated after a crash, the same jobs."""

from __future__ import annotations

import difflib
import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

from ailurus.output import Output, clean
from dispatcher.cli import logs, wait
from dispatcher.cli.connection import connect, url_of
from dispatcher.cli.exits import USAGE, CommandError

if TYPE_CHECKING:
    from ailurus.wire.client import Client

PATIENCE_S = 60.0
LOOK_S = 2.0
"""How long a look at the queues may take."""
SAY_QUEUES = SAY_HINTS = 5


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="job file; - is stdin (docs/jobs.md)"
    )
    parser.add_argument(
        "--request-id", metavar="ID", help="yours: the same id again gives the same jobs"
    )
    parser.add_argument(
        "--name", default="", help="what to call all of it: `dispatcher submissions`"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="of all of it; repeatable"
    )
    parser.add_argument("--dry-run", action="store_true", help="read and check, submit nothing")
    parser.add_argument("--wait", action="store_true", help="then wait, and exit as `wait` does")
    parser.add_argument(
        "--follow", action="store_true", help="of one job: print its output, then as --wait"
    )


def main(args: Namespace, out: Output) -> int:
    """Read, check, send; print the job ids, one a line."""
    from ailurus.wire.client import Refused
    from dispatcher.cli.jobfile import JobFiles
    from dispatcher.cli.pending import request_id

    files = JobFiles(args.files)
    jobs = files.jobs
    if args.follow and len(jobs) != 1:
        raise CommandError(
            USAGE,
            f"--follow prints the output of one job, and these are {len(jobs):,}",
            remedy="say --wait, and see `dispatcher logs ID --follow` for one of them",
        )
    said = _said(args)
    for hint in islice(files.hints(), SAY_HINTS):
        sys.stderr.write(clean(f"dispatcher: {hint}\n"))
    if args.dry_run:
        from ailurus.protocol.messages import Submit

        if out.as_json:
            out.document(Submit(request_id=args.request_id or "dry-run", jobs=jobs, **said))
        else:
            out.line("1 job is good" if len(jobs) == 1 else f"{len(jobs)} jobs are good")
        return 0
    client = connect(args, patience_s=PATIENCE_S)
    for name, items in files.payloads:
        client.upload(name, items)
    for contents in files.uploads:
        client.upload_file(contents)
    known = args.request_id
    with nullcontext(known) if known else request_id(url_of(args), jobs, **said) as made:
        try:
            answer = client.submit(jobs, made, **said)
        except Refused as refused:
            # The dispatcher knows what the file cannot: which queues.
            if refused.status == 422:
                files.fault(refused)
            raise
        # Before the id is forgotten: who is killed now and asks again gets these.
        if out.as_json:
            out.document(answer)
        else:
            out.raw("".join(f"{job_id}\n" for job_id in answer.job_ids))
    if sys.stderr.isatty() and len(jobs) > 1 and answer.submission is not None:
        sys.stderr.write(f"submission {answer.submission}: {len(jobs):,} jobs\n")
    _say_unserved(client, {job.queue for job in jobs if job.queue})
    if args.follow:
        shown = {"id": (answer.job_ids[0], None), "follow": True, "stream": "stdout"}
        logs.main(Namespace(**{**vars(args), **shown, "attempt": None}), out)
    if args.wait or args.follow:
        return wait.until_final(client, answer.job_ids, None)
    return 0


def _said(args: Namespace) -> dict[str, Any]:
    """Name and labels of all that is submitted. An earlier dispatcher knows neither, so what is not
    said is not sent. Raises CommandError."""
    labels: dict[str, str] = {}
    for text in args.label:
        key, equals, value = text.partition("=")
        if not equals or not key or key in labels:
            what = f"--label {text!r}: {'twice' if key in labels else 'no KEY=VALUE'}"
            raise CommandError(USAGE, what, remedy="--label campaign=mc23")
        labels[key] = value
    return {name: one for name, one in (("name", args.name), ("labels", labels)) if one}


def _say_unserved(client: Client, queues: set[str]) -> None:
    """Say on stderr which queues nobody serves: a name with a slip in it waits for ever."""
    from ailurus.protocol.errors import AilurusError

    try:
        rows = client.until(time.monotonic() + LOOK_S).overview().queues
    except AilurusError:
        # The jobs are submitted; this token may read nothing, or nobody answers now.
        return
    served = {row.name for row in rows if row.workers or row.sites}
    for queue in sorted(queues - served)[:SAY_QUEUES]:
        near = difflib.get_close_matches(queue, served, n=1)
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        sys.stderr.write(
            clean(f"dispatcher: no pilot serves queue {queue} and no site offers one{hint}\n")
        )
