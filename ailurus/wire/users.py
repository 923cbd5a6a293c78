"""What users ask of a dispatcher, a method each: the half of `ailurus.wire.client.Client` that
knows no HTTP."""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemSpec, slices
from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import FINAL
from ailurus.protocol.task import Task, Verb
from ailurus.wire.retry import Patience

A = TypeVar("A", bound=msgspec.Struct)
# How long after the end of a wait its last answer may arrive.
LAST_ANSWER_S = 2.0


class Users:
    """A verb of users is a call of one route, which may be repeated."""

    def call(
        self,
        name: str,
        ask: msgspec.Struct | None = None,
        *,
        answer: type[A],
        wait_s: float = 0.0,
        patience: Patience | None = None,
        **path: object,
    ) -> A:
        """Call a route."""
        raise NotImplementedError

    def until(self, end: float) -> Users:
        """The same, for calls that all end at `end` (of `time.monotonic()`)."""
        raise NotImplementedError

    def submit(
        self, jobs: Sequence[JobSpec], request_id: str | None = None, **more: Any
    ) -> m.Submitted:
        """Submit jobs, with `name` and `labels` for all of them; with the same `request_id` again,
        the first answer comes back."""
        ask = m.Submit(request_id=request_id or uuid.uuid4().hex, jobs=tuple(jobs), **more)
        return self.call("submit", ask, answer=m.Submitted, wait_s=60.0)

    def upload(self, name: str, items: Iterable[ItemSpec]) -> Payloads:
        """Upload the items of a job, to be named in its `payloads`. With the same `name` and items
        again, it goes on where it was interrupted."""
        first = known = 0
        for part in slices(items):
            if first >= known:
                ask = m.AddItems(list=name, first=first, items=tuple(part))
                known = self.call("add_items", ask, answer=m.ItemsAdded, wait_s=60.0).count
            first += len(part)
        return Payloads(list=name, count=first)

    def upload_file(self, contents: bytes, *, program: bool = False) -> str:
        """Upload a small file that travels with jobs, unless it is there; returns its URL, to be
        named with its size in `InputFile`. `program`: it may be executed."""
        from ailurus.protocol.uploads import PIECE_BYTES, Upload

        made = Upload(hashlib.sha256(contents).hexdigest(), program=program)
        size = len(contents)
        have, piece = 0, b""
        while True:
            ask = m.AddUpload(digest=made.digest, size=size, first=have, piece=piece)
            have = self.call("add_upload", ask, answer=m.UploadAdded, wait_s=60.0).have
            if have >= size:
                return made.url
            piece = contents[have : have + PIECE_BYTES]

    def items(self, job_id: int, query: api.ItemsQuery | None = None) -> m.ItemPage:
        """Items of a job, in their order."""
        return self.call("items", query or api.ItemsQuery(), answer=m.ItemPage, job_id=job_id)

    def item(self, job_id: int, index: int) -> m.ItemDetail:
        """All about one item of a job."""
        return self.call("item", api.ItemQuery(index=index), answer=m.ItemDetail, job_id=job_id)

    def jobs(self, query: api.JobsQuery | None = None) -> m.JobPage:
        """List jobs, newest first."""
        return self.call("jobs", query or api.JobsQuery(), answer=m.JobPage)

    def count(self, which: api.Filter) -> m.Counted:
        """How many jobs match."""
        return self.call("count", which, answer=m.Counted)

    def show(self, job_id: int) -> m.JobDetail:
        """All that is known about one job."""
        return self.call("show", answer=m.JobDetail, job_id=job_id)

    def why(self, job_id: int) -> m.Why:
        """Why the job is where it is."""
        return self.call("why", answer=m.Why, job_id=job_id)

    def log(self, job_id: int, query: api.LogQuery | None = None) -> m.LogChunk:
        """A piece of the job's output."""
        query = query or api.LogQuery()
        return self.call("log", query, answer=m.LogChunk, wait_s=query.wait_s, job_id=job_id)

    def wait(self, job_ids: Sequence[int], timeout_s: float | None = None) -> m.JobStates:
        """States of the jobs once all are final, or after `timeout_s` (None: however long)."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        client = self.until(deadline + LAST_ANSWER_S)
        while True:
            left = max(0.0, min(30.0, deadline - time.monotonic()))
            ask = m.WaitJobs(job_ids=tuple(job_ids), timeout_s=left)
            answer = client.call("wait", ask, answer=m.JobStates, wait_s=left)
            if left < 30.0 or all(state in FINAL for state in answer.states.values()):
                return answer

    def cancel(self, job_ids: Sequence[int], *, soft: bool = False) -> m.Cancelled:
        """Cancel jobs; workers that run them learn it at their next heartbeat."""
        return self.call("cancel", m.Cancel(job_ids=tuple(job_ids), soft=soft), answer=m.Cancelled)

    def retry(self, job_ids: Sequence[int], request_id: str | None = None) -> m.Submitted:
        """Try final jobs again, as new jobs; with the same `request_id` again, the first answer
        comes."""
        ask = m.Retry(job_ids=tuple(job_ids), request_id=request_id or uuid.uuid4().hex)
        return self.call("retry", ask, answer=m.Submitted)

    def submit_task(self, task: Task, request_id: str | None = None) -> m.TaskSubmitted:
        """Submit a task; with the same `request_id` again, the first answer comes back."""
        ask = m.SubmitTask(request_id=request_id or uuid.uuid4().hex, task=task)
        return self.call("submit_task", ask, answer=m.TaskSubmitted, wait_s=60.0)

    def tasks(self, query: api.TasksQuery | None = None) -> m.TaskPage:
        """List tasks, newest first."""
        return self.call("tasks", query or api.TasksQuery(), answer=m.TaskPage)

    def task(self, task_id: int) -> m.TaskDetail:
        """All about one task."""
        return self.call("task", api.TaskQuery(task_id=task_id), answer=m.TaskDetail)

    def points(self, task_id: int, step: str, *, after: int = -1, limit: int = 1000) -> m.Points:
        """Points of a search in their order, after one: how they are, and the loss of each."""
        ask = api.PointsQuery(task_id=task_id, step=step, after=after, limit=limit)
        return self.call("points", ask, answer=m.Points)

    def add_points(
        self, task_id: int, step: str, points: Sequence[dict[str, Any]], *, end: bool = False
    ) -> m.PointsAdded:
        """Add points to a search, those that it does not have yet; `end`: no more will come."""
        ask = m.AddPoints(task_id=task_id, step=step, points=tuple(points), end=end)
        return self.call("add_points", ask, answer=m.PointsAdded)

    def steer_task(self, task_id: int, verb: Verb) -> m.TaskRow:
        """Pause, resume, retry or finish a task."""
        return self.call("steer_task", m.SteerTask(task_id=task_id, verb=verb), answer=m.TaskRow)

    def cancel_task(self, task_id: int) -> m.TaskRow:
        """Cancel a task, and the jobs that it has made."""
        return self.call("cancel_task", m.CancelTask(task_id=task_id), answer=m.TaskRow)

    def reregister(self, job_ids: Sequence[int]) -> m.Reregistered:
        """Have outputs of jobs that the catalogue of data refused registered again."""
        ask = m.Reregister(job_ids=tuple(job_ids))
        return self.call("reregister", ask, answer=m.Reregistered)

    def overview(self) -> m.Overview:
        """The whole system in numbers."""
        return self.call("overview", answer=m.Overview)
