"""`dispatcher task`: what is done once, for each item of a list, a range or a step."""

from __future__ import annotations

import json
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ailurus.output import Output, ago
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.task import ENDED, Task, TaskState, Verb
from ailurus.protocol.task_file import task_from
from dispatcher.cli.connection import connect, url_of
from dispatcher.cli.exits import OK, TRY_AGAIN
from dispatcher.cli.treefile import TreeFile

if TYPE_CHECKING:
    from ailurus.protocol.messages import SearchPoint, StepRow, TaskDetail, TaskRow
    from ailurus.wire.client import Client

PATIENCE_S = 60.0
LOOK_S = 1.0
"""Between two looks at a task that is waited for."""
LISTED = 100
"""Tasks that `list` shows, the newest."""
PAGE = 1000
"""Points of an answer."""
FAILED = 1
MALFORMED = 422
VERBS = {
    "submit": "submit a task from a file",
    "list": "list tasks, newest first",
    "show": "how far each step is",
    "why": "why a task is where it is",
    "points": "the points of a search, and the loss of each",
    "wait": "wait until it is at its end",
    "pause": "make no more jobs, for a while",
    "resume": "go on",
    "retry": "try again what failed",
    "finish": "let no more items begin, and be content with what is there",
    "cancel": "make no more jobs, and cancel those that there are",
}
OF_POINTS = ("nr", "state", "job", "loss", "point", "reason")
OF_SEARCHES = ("search", "points", "at most", "evaluated", "least loss", "at")
COLUMNS = ("step", "items", "waiting", "in jobs", "finished", "failed", "jobs")


class TaskFile(TreeFile):
    """A file of a task."""

    page = "docs/tasks.md"

    @property
    def task(self) -> Task:
        """What it says. Raises CommandError with its line."""
        try:
            return task_from(self.tree, self.base)
        except AilurusError as error:
            self.fault(error)


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli import common

    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    for verb, text in VERBS.items():
        # What is not said here may have been said before the verb.
        one = verbs.add_parser(verb, help=text, argument_default=SUPPRESS)
        common(one)
        if verb == "submit":
            one.add_argument("file", metavar="FILE", help="docs/tasks.md; - is stdin")
            one.add_argument(
                "--request-id", default=None, metavar="ID", help="the same id, the same task"
            )
            one.add_argument("--dry-run", action="store_true", help="read and check only")
            one.add_argument("--wait", action="store_true", help="then as `wait`")
        elif verb == "list":
            one.add_argument("--state", choices=[*map(str, TaskState)], help="only these")
        else:
            one.add_argument("id", type=int, metavar="ID", help="of a task")
        if verb == "points":
            one.add_argument(
                "--step", default="", help="of this step; otherwise of the first that is a search"
            )
        if verb in ("submit", "wait"):
            one.add_argument(
                "--timeout", type=float, metavar="SECONDS", help="wait at most so long"
            )
    parser.set_defaults(dry_run=False, wait=False, state="", timeout=None)


def main(args: Namespace, out: Output) -> int:
    """Do what is asked."""
    if args.action == "list":
        return _list(args, out)
    if args.action == "submit":
        return _submit(args, out)
    client, task_id = connect(args), args.id
    if args.action == "wait":
        return _wait(client, task_id, args, out)
    if args.action == "points":
        return _points(client, task_id, args.step, out)
    if args.action in ("show", "why"):
        detail = client.task(task_id)
        if out.as_json:
            out.document(detail)
        elif args.action == "show":
            _show(detail, out)
        else:
            _why(detail.row, out)
        return OK
    row = (
        client.cancel_task(task_id)
        if args.action == "cancel"
        else client.steer_task(task_id, Verb(args.action))
    )
    if out.as_json:
        out.document(row)
    else:
        out.line(f"task {row.task_id} is {row.state}")
    return OK


def _submit(args: Namespace, out: Output) -> int:
    from ailurus.wire.client import Refused
    from dispatcher.cli.pending import request_id

    file = TaskFile(args.file)
    task = file.task
    if args.dry_run:
        if out.as_json:
            out.document(task)
        else:
            out.line(f"task {task.task} is good: {len(task.steps)} steps")
        return OK
    client = connect(args, patience_s=PATIENCE_S)
    known = args.request_id
    with nullcontext(known) if known else request_id(url_of(args), task) as made:
        try:
            answer = client.submit_task(task, made)
        except Refused as refused:
            # The dispatcher knows what the file cannot: which queues.
            if refused.status == MALFORMED and refused.field.startswith("task."):
                refused.field = refused.field.removeprefix("task.")
                file.fault(refused)
            raise
        if out.as_json:
            out.document(answer)
        else:
            out.raw(f"{answer.task_id}\n")
    return _wait(client, answer.task_id, args, out) if args.wait else OK


def _list(args: Namespace, out: Output) -> int:
    from ailurus.protocol.api import TasksQuery
    from ailurus.protocol.messages import TaskPage, TaskRow

    client, rows, before = connect(args), list[TaskRow](), None
    # A page of tasks that say much has few.
    while len(rows) < LISTED:
        ask = TasksQuery(state=args.state, before=before, limit=LISTED - len(rows))
        page = client.tasks(ask)
        rows += page.tasks
        before = page.next
        if before is None:
            break
    if out.as_json:
        out.document(TaskPage(tasks=tuple(rows), next=before))
        return OK
    out.table(
        ("task", "name", "state", "user", "items", "finished", "failed", "submitted"),
        (
            (
                row.task_id,
                row.name,
                row.state,
                row.user,
                sum(step.items for step in row.steps),
                sum(step.finished for step in row.steps),
                sum(step.failed for step in row.steps),
                ago(row.created),
            )
            for row in rows
        ),
    )
    return OK


def _show(detail: TaskDetail, out: Output) -> None:
    row = detail.row
    out.pairs(
        (
            ("task", row.task_id),
            ("name", row.name),
            ("state", row.state),
            ("user", row.user),
            ("submitted", ago(row.created)),
            ("changed", ago(row.changed)),
            ("reason", row.reason),
        )
    )
    out.table(
        COLUMNS,
        ((s.name, s.items, s.waiting, s.open, s.finished, s.failed, s.jobs) for s in row.steps),
    )
    searches = [
        (one.name, one.items, spec.over.ask.max, one.finished, *_best(one))
        for one, spec in zip(row.steps, detail.task.steps, strict=True)
        if spec.over.ask is not None
    ]
    if searches:
        out.table(OF_SEARCHES, searches)
    out.line(f"its jobs: dispatcher jobs label:task={row.task_id}")


def _best(step: StepRow) -> tuple[str, str]:
    """The least loss of a search, and its point."""
    if step.best is None:
        return "-", ""
    return f"{step.best.loss:g}", json.dumps(step.best.item)


def _points(client: Client, task_id: int, step: str, out: Output) -> int:
    """List the points of a search, page by page."""
    if not step:
        steps = client.task(task_id).task.steps
        step = next((one.name for one in steps if one.over.ask is not None), steps[0].name)
    after, first = -1, True
    while True:
        page = client.points(task_id, step, after=after, limit=PAGE)
        if out.as_json:
            for row in page.points:
                out.record(row)
        elif page.points or first:
            out.table(OF_POINTS, map(_cells, page.points))
        if page.next is None:
            return OK
        after, first = page.next, False


def _cells(row: SearchPoint) -> tuple[object, ...]:
    loss = "-" if row.loss is None else f"{row.loss:g}"
    return row.nr + 1, row.state, row.job_id or "-", loss, json.dumps(row.item), row.reason


def _why(row: TaskRow, out: Output) -> None:
    reason = f": {row.reason}" if row.reason else ""
    out.line(f"task {row.task_id} is {row.state}{reason}")
    for step in row.steps:
        out.line(f"  - step {step.name}: {step.sentence}")
    if row.state is TaskState.PAUSED:
        out.line(f"  → dispatcher task resume {row.task_id}")
    elif any(step.failed for step in row.steps):
        out.line(f"  → dispatcher jobs label:task={row.task_id} state:failed tells why")
        out.line(f"  → dispatcher task retry {row.task_id}, once that is mended")


def _wait(client: Client, task_id: int, args: Namespace, out: Output) -> int:
    """Wait until a task is at its end."""
    end = None if args.timeout is None else time.monotonic() + args.timeout
    while (detail := client.task(task_id)).row.state not in ENDED:
        if end is not None and time.monotonic() >= end:
            return TRY_AGAIN
        time.sleep(LOOK_S)
    if not out.as_json:
        _why(detail.row, out)
    elif args.action == "wait":
        out.document(detail)
    return OK if detail.row.state is TaskState.FINISHED else FAILED
