"""Traces of jobs for OpenTelemetry: one trace a job, from submission to its end, sent when it has
ended.

    job ── attempt ── stage_in, run, stage_out

No request waits for it: the end of a job is noticed after its commit, and its content read from the
store, a few at a time. Without a collector the oldest are forgotten. Names follow OpenTelemetry's
conventions for CI/CD; PanDA's names stand beside them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode

from ailurus import __version__, fetch
from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery, Scope
from ailurus.protocol.states import FINAL, JobState
from dispatcher.auth.caller import Caller
from dispatcher.events import Entry, StateChanged
from dispatcher.ports import Unavailable
from dispatcher.refusal import Rejected
from dispatcher.service import Service

# Ended jobs that are not sent yet.
REMEMBERED = 10_000
# Between two jobs, for the requests that wait.
PAUSE_S = 0.002
_RESULT = {
    JobState.FINISHED: "success",
    JobState.FAILED: "failure",
    JobState.CANCELLED: "cancellation",
}
_READER = Caller(subject="traces", scopes=frozenset({Scope.ADMIN}))
log = Log("traces")


class Traces:
    """Sends a trace of each ended job to a collector. Made and closed with the dispatcher."""

    def __init__(self, service: Service, endpoint: str) -> None:
        """`endpoint`: of OTLP over HTTP, such as http://127.0.0.1:4318."""
        resource = Resource({"service.name": "ailurus-dispatcher", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces", session=fetch.session()
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ailurus", __version__)
        self._service = service
        self._ended: deque[int] = deque(maxlen=REMEMBERED)
        self._more = asyncio.Event()
        self._sending = service.loops.task("traces", self._send_all)
        service.store.listen(self._on_events)

    async def close(self) -> None:
        """Send what has gathered."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await asyncio.to_thread(self._provider.shutdown)

    def _on_events(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            event = entry.event
            if (
                isinstance(event, StateChanged)
                and event.state in FINAL
                and entry.job_id is not None
            ):
                self._ended.append(entry.job_id)
                self._more.set()

    async def _send_all(self, loop: Loop) -> None:
        while True:
            loop.turned(None)
            # Else it failed in between.
            if not self._ended:
                await self._more.wait()
            self._more.clear()
            while self._ended:
                job_id = self._ended.popleft()
                try:
                    self._record(await self._service.users.show(NoQuery(), _READER, job_id=job_id))
                except (Rejected, Unavailable) as error:
                    log.info("job_not_traced", job_id=job_id, reason=str(error))
                await asyncio.sleep(PAUSE_S)

    def _record(self, job: m.JobDetail) -> None:
        row = job.row
        whole = self._begun("job", row.created, None)
        whole.set_attributes(
            {
                "cicd.pipeline.run.id": str(row.job_id),
                "cicd.pipeline.name": row.name,
                "cicd.pipeline.result": _RESULT.get(row.state, "error"),
                "panda.job_id": row.job_id,
                "panda.job_status": str(row.state),
                "panda.queue": row.queue,
                "panda.user": row.user,
            }
        )
        if row.state != JobState.FINISHED:
            whole.set_attribute("error.type", str(row.code))
            whole.set_status(Status(StatusCode.ERROR, row.diagnosis[:500]))
        for attempt in job.attempts:
            self._attempt(attempt, row.changed, whole)
        _end(whole, row.changed)

    def _attempt(self, one: m.Attempt, last: float, parent: Span) -> None:
        end = one.ended or last
        span = self._begun("attempt", one.leased, parent)
        span.set_attributes(
            {
                "panda.attempt_nr": one.attempt_nr,
                "panda.job_status": one.state,
                "panda.worker_id": one.worker_id,
                "panda.site": one.site,
                "host.name": one.host,
            }
        )
        if one.state != JobState.FINISHED:
            span.set_attribute("error.type", str(one.code))
            span.set_status(Status(StatusCode.ERROR, one.diagnosis[:500]))
        phases = (
            ("stage_in", one.started, one.running),
            ("run", one.running, one.holding),
            ("stage_out", one.holding, None),
        )
        for name, begin, stop in phases:
            if begin is not None:
                _end(self._begun(name, begin, span), end if stop is None else stop)
        _end(span, end)

    def _begun(self, name: str, at: float, parent: Span | None) -> Span:
        context = None if parent is None else trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, start_time=int(at * 1e9))


def _end(span: Span, at: float) -> None:
    span.end(end_time=int(at * 1e9))
