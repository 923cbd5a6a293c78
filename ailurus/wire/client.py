"""The one HTTP client: pilot, edge, command line and users' Python talk to a dispatcher through it.

AilurusError └── WireError ├── Unreachable     no answer, or only 5xx, within the patience of the
call ├── Refused         an error status: `.status`, the problem's field and remedy, and `.giver`,
by │                   which `authority` knows whether the dispatcher sent it └── Nonsense        an
answer that cannot be read: it is probably not a dispatcher's

Every request may be repeated: those that create something carry an id made by the caller.
"""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import json
import math
import random
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3

from ailurus import __version__
from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX, Route
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.item import ItemSpec, slices
from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import FINAL
from ailurus.protocol.task import Task, Verb
from ailurus.protocol.url import Url
from ailurus.wire.credentials import Trust
from ailurus.wire.retry import Patience, pauses

A = TypeVar("A", bound=msgspec.Struct)
# Statuses after which a request is repeated.
AGAIN = frozenset({429, 500, 502, 503, 504})
# How much longer than its `wait_s` a long poll may take.
SLACK_S = 30.0
# The giver of an answer that is not a dispatcher's.
STRANGER = "-"
# How long after the end of a wait its last answer may arrive.
LAST_ANSWER_S = 2.0


class WireError(AilurusError):
    """Talking to the dispatcher failed."""


class Unreachable(WireError):
    """No answer, or only 5xx, within the patience of the call."""


class Nonsense(WireError):
    """The answer cannot be read: it is another server's, or of another version. `giver`: its
    sender, as the answer names it."""

    def __init__(self, message: str, *, remedy: str = "", giver: str = STRANGER) -> None:
        super().__init__(message, remedy=remedy)
        self.giver = giver


class Refused(WireError):
    """The server at the dispatcher's address answered with an error status."""

    def __init__(self, problem: m.Problem) -> None:
        detail = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
        super().__init__(detail, remedy=problem.remedy, field=problem.field)
        self.status = problem.status
        self.giver = problem.giver


@cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


_encode = msgspec.json.Encoder().encode


class Client:
    """A dispatcher at `url`. Threads may share one; connections are kept."""

    # Each is an option of its own, and named at the call.
    def __init__(  # noqa: PLR0913
        self,
        url: str,
        token: Callable[..., str] | None = None,
        *,
        patience: Patience | None = None,
        connections: int = 4,
        trust: Trust | None = None,
        headers: Mapping[str, str] | None = None,
        stale: Collection[int] = (401,),
        sleep: Callable[[float], object] = time.sleep,
        on_silence: Callable[[str], object] | None = None,
    ) -> None:
        """`headers`: sent with each request; `stale`: statuses after which the token is read again
        and the request repeated once; `on_silence`: called with the reason after each try without
        an answer. Raises AilurusError for a bad address, or one at which others could read the
        token."""
        if not url.startswith(("http://", "https://")):
            raise AilurusError(
                f"{url!r} is not a dispatcher's address", remedy="http://127.0.0.1:8080"
            )
        if token is not None and url.startswith("http://") and not _loopback(url):
            raise AilurusError(
                f"{url} is plain HTTP: anybody on the way could read the token",
                remedy="use https://, with --ca or --pin where its certificate is your own; "
                "from another host, a tunnel to loopback will do",
            )
        self.url = url.rstrip("/")
        self.token = token
        self.patience = patience or Patience()
        self._headers = headers or {}
        self._stale = stale
        self._sleep = sleep
        self._on_silence = on_silence
        self.end = math.inf
        self._chance = random.Random()
        self._pool = (trust or Trust()).pool(connections)

    def as_holder(self, token: Callable[..., str] | None) -> Client:
        """The same connections, with another token."""
        other = copy.copy(self)
        other.token = token
        return other

    def until(self, end: float) -> Client:
        """The same connections, for calls that all end at `end` (of `time.monotonic()`), answered
        or not."""
        other = copy.copy(self)
        other.end = min(self.end, end)
        return other

    # users ---------------------------------------------------------------------------------------

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

    # any route -----------------------------------------------------------------------------------

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
        """Call the route `name` and return its typed answer.

        `wait_s`: how long the dispatcher was asked to hold the request. Raises Unreachable, Refused
        or Nonsense.
        """
        route = BY_NAME[name]
        if answer is not route.answer:
            raise TypeError(f"{name} answers {route.answer}, not {answer}")
        status, body = self._send(route, ask, path, wait_s, patience or self.patience)
        if status >= 400:
            raise Refused(_problem(status, body))
        try:
            return _decoder(answer).decode(body)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            from ailurus.wire import strangers

            what = f"leads elsewhere (HTTP {status})" if status >= 300 else "answers something else"
            text = strangers.words(body) if body.lstrip()[:1] == b"<" else str(error)
            raise Nonsense(
                f"{self.url} {what} when asked for {name}: «{text}»",
                remedy="is this address an Ailurus dispatcher?",
                giver=_giver(body),
            ) from None

    def contents(self, name: str, ask: msgspec.Struct, **path: object) -> bytes:
        """Call a route that answers with a file, for its bytes. Raises as `call` does."""
        status, body = self._send(BY_NAME[name], ask, path, 60.0, self.patience)
        if status >= 300:
            raise Refused(_problem(status, body))
        return body

    def _send(
        self,
        route: Route,
        ask: msgspec.Struct | None,
        path: dict[str, object],
        wait_s: float,
        patience: Patience,
    ) -> tuple[int, bytes]:
        url = PREFIX + route.path.format(**path)
        body = None
        if route.method == "GET":
            query = {} if ask is None else msgspec.structs.asdict(ask)
            if given := {key: value for key, value in query.items() if value not in (None, "")}:
                url += "?" + urlencode(given)
        else:
            body = b"{}" if ask is None else _encode(ask)
        return self.request(route.method, url, body, wait_s=wait_s, patience=patience)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        wait_s: float = 0.0,
        patience: Patience | None = None,
    ) -> tuple[int, bytes]:
        """Send any request, repeated as `call` does; returns the status, below 500, and the body.

        Raises Unreachable.
        """
        patience = patience or self.patience
        url = self.url + path
        deadline = time.monotonic() + patience.total_s
        fresh = False
        for pause in pauses(patience, self._chance):
            problem = ""
            try:
                status, answer = self._once(method, url, body, kind, wait_s, fresh=fresh)
            except urllib3.exceptions.HTTPError as error:
                problem = _reason(error)
            else:
                if status in self._stale and not fresh and self.token is not None:
                    # The file may hold a renewed one.
                    fresh = True
                    continue
                if status not in AGAIN:
                    return status, answer
                problem = _problem(status, answer).title
            if self._on_silence is not None:
                self._on_silence(problem)
            now = time.monotonic()
            if now + pause > deadline or now >= self.end:
                raise Unreachable(
                    f"no dispatcher answers at {self.url}: {problem}",
                    remedy="is it running, and is --url or AILURUS_URL right?",
                )
            self._sleep(min(pause, self.end - now))
        raise AssertionError("pauses() never ends")

    def _once(
        self, method: str, url: str, body: bytes | None, kind: str, wait_s: float, *, fresh: bool
    ) -> tuple[int, bytes]:
        headers = {
            "User-Agent": f"ailurus/{__version__}",
            "Accept": "application/json",
            **self._headers,
        }
        if body is not None:
            headers["Content-Type"] = kind
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token(fresh=fresh)}"
        left = max(0.1, self.end - time.monotonic())
        timeout = urllib3.Timeout(connect=min(10.0, left), read=min(wait_s + SLACK_S, left))
        answer = self._pool.request(
            method, url, body=body, headers=headers, timeout=timeout, redirect=False,
            preload_content=False,
        )  # fmt: skip
        try:
            return answer.status, _body(answer, time.monotonic() + min(wait_s + SLACK_S, left))
        except BaseException:
            answer.close()
            raise
        finally:
            answer.release_conn()


MOST_BYTES = 256 << 20
LEAST_PER_S = 1024
"""Slower than this nobody answers whom a caller could wait for: a byte now and then would keep
him."""


def _body(answer: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """All of an answer. It may be there by `end`, or come steadily; and it has an end."""
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1():
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise urllib3.exceptions.HTTPError(f"an answer of more than {MOST_BYTES >> 20} MiB")
        if time.monotonic() > end + size / LEAST_PER_S:
            raise urllib3.exceptions.HTTPError("its answer does not come to an end")
    return b"".join(pieces)


def _loopback(url: str) -> bool:
    host = Url.parse(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).split(": ", 1)[-1] or type(error).__name__


class _Named(msgspec.Struct):
    """The sender of an answer that could not be read."""

    giver: str


def _giver(body: bytes) -> str:
    try:
        return _decoder(_Named).decode(body).giver  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return STRANGER


def _problem(status: int, body: bytes) -> m.Problem:
    try:
        problem: m.Problem = _decoder(m.Problem).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, json.JSONDecodeError):
        # Seldom needed: not at a pilot's start.
        from ailurus.wire import strangers

        problem = strangers.problem(status, body)
    # A dispatcher says the same in both places.
    if problem.status != status:
        problem = msgspec.structs.replace(problem, status=status, giver=STRANGER)
    return problem
