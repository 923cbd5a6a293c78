"""`dispatcher wait ID…`: until all are final; the exit code is the payload's."""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ailurus.output import Output, clean
from ailurus.protocol.messages import JobStates, WaitJobs, Why
from ailurus.protocol.states import FINAL, JobState, Outlook
from dispatcher.cli import exits
from dispatcher.cli.connection import connect
from dispatcher.cli.items import summary

if TYPE_CHECKING:
    from ailurus.wire.client import Client

# A dispatcher that restarts is waited for.
PATIENCE_S = 3600.0
# Beyond --timeout, for an answer that is on its way.
LAST_ANSWER_S = 1.0
# How often to ask whether what waits can ever run.
ASK_WHY_S = 20.0
# Of how many jobs, as long as none of them can run.
ASK_WHY = 1000
SAY_WHY = 20


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id, span

    parser.add_argument("ids", nargs="+", type=job_id, metavar="ID")
    parser.add_argument("--timeout", type=span, metavar="10m", help="then exit with 75")


def main(args: Namespace, out: Output) -> int:
    """Wait; 0 when all finished, else as the first payload that did not."""
    client = connect(args, patience_s=PATIENCE_S)
    code, answer = _waited(client, args.ids, args.timeout)
    if out.as_json:
        out.document(answer)
    else:
        known = answer.states
        out.table(["job", "state"], ((job_id, known.get(job_id, "unknown")) for job_id in args.ids))
    return code


def until_final(client: Client, job_ids: Sequence[int], timeout_s: float | None) -> int:
    """Wait for the jobs; the exit code that tells how they ended."""
    return _waited(client, job_ids, timeout_s)[0]


def _waited(
    client: Client, job_ids: Sequence[int], timeout_s: float | None
) -> tuple[int, JobStates]:
    from ailurus.wire.client import Unreachable

    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    client = client.until(deadline + LAST_ANSWER_S)
    states: dict[int, JobState] = {}
    pause = 1.0
    while True:
        left = min(pause, max(0.0, deadline - time.monotonic()))
        try:
            ask = WaitJobs(job_ids=tuple(job_ids), timeout_s=left)
            answer = client.call("wait", ask, answer=JobStates, wait_s=left)
            states = answer.states
            unfinished = [job_id for job_id, state in states.items() if state not in FINAL]
            if not unfinished:
                return _verdict(client, job_ids, answer), answer
            if time.monotonic() < deadline and never(client, unfinished):
                return exits.NEVER, answer
            if sys.stderr.isatty() and len(unfinished) == 1:
                _progress(client, unfinished[0])
        except Unreachable as error:
            if time.monotonic() < deadline:
                raise
            sys.stderr.write(clean(f"dispatcher: {error}\n"))
            return exits.TRY_AGAIN, JobStates(states=states)
        if time.monotonic() >= deadline:
            sys.stderr.write(f"dispatcher: {len(unfinished)} jobs are not final yet\n")
            return exits.TRY_AGAIN, answer
        pause = ASK_WHY_S


def _progress(client: Client, job_id: int) -> None:
    """Say how far the payloads of a job are."""
    counts = client.show(job_id).items
    if counts is not None:
        sys.stderr.write(clean(f"dispatcher: job {job_id}: {summary(counts)}\n"))


def never(client: Client, job_ids: Sequence[int]) -> bool:
    """Whether none of the jobs can run as things are: then waiting is for nothing."""
    never: list[Why] = []
    for job_id in job_ids[:ASK_WHY]:
        answer = client.why(job_id)
        # Most often the first one.
        if answer.verdict != Outlook.NEVER:
            return False
        never.append(answer)
    for answer in never[:SAY_WHY]:
        sys.stderr.write(clean(f"dispatcher: job {answer.job_id}: {answer.sentence}\n"))
    if len(job_ids) > SAY_WHY:
        sys.stderr.write(f"dispatcher: and {len(job_ids) - SAY_WHY} more jobs like these\n")
    return True


def _verdict(client: Client, job_ids: Sequence[int], answer: JobStates) -> int:
    """0 when all finished, else the exit code of the first payload that did not, else 1."""
    bad = [job_id for job_id in job_ids if answer.states[job_id] is not JobState.FINISHED]
    if not bad:
        return exits.OK
    return verdict_of(client, bad[0], len(bad))


def verdict_of(client: Client, job_id: int, unfinished: int) -> int:
    """The exit code of a payload that did not finish, of so many, else 1; says on stderr what
    happened to it."""
    first = client.show(job_id)
    why = f": {first.row.diagnosis}" if first.row.diagnosis else ""
    others = f" (and {unfinished - 1} more did not finish)" if unfinished > 1 else ""
    sys.stderr.write(
        clean(f"dispatcher: job {job_id} ({first.row.name}) is {first.row.state}{why}{others}\n")
    )
    attempts = first.attempts
    code = attempts[-1].exit_code if attempts else None
    return code if code is not None and 0 < code < 256 else 1
