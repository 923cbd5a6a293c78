"""A collector on loopback gets one trace a job, its spans where the seconds went."""

from __future__ import annotations

import asyncio
import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from dispatcher.telemetry.traces import Traces
from tests.dispatcher.helpers import ALICE, job, run


@pytest.fixture
def collector():
    """Where traces are sent, and the spans that came."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            told = ExportTraceServiceRequest.FromString(body)
            for resource in told.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(span):
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_a_job_is_one_trace_from_submission_to_end(tmp_path, collector, monkeypatch):
    endpoint, spans = collector
    # The environment's proxy is not the way to a collector.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def test(one) -> None:
        traces = Traces(one.service, endpoint)
        await one.submit(job("traced"))
        worker = await one.worker()
        await worker.acquire()
        await one.forward(one.service.state.lease_s + 1)  # it is lost
        worker = await one.worker()
        (second,) = await worker.acquire()
        for state in (JobState.STARTING, JobState.RUNNING, JobState.HOLDING):
            await worker.beat(second, state=state)
        await worker.report(second)
        cancelled = await one.submit(job("ended"))
        await one.service.users.cancel(m.Cancel(job_ids=tuple(cancelled)), ALICE)
        await asyncio.sleep(0.3)  # they are told of after their commits
        await traces.close()

    run(test, tmp_path)
    jobs = {attributes(span)["cicd.pipeline.name"]: span for span in spans if span.name == "job"}
    whole = jobs["traced"]
    assert attributes(whole)["cicd.pipeline.result"] == "success"
    assert attributes(jobs["ended"])["cicd.pipeline.result"] == "cancellation"
    assert jobs["ended"].trace_id != whole.trace_id
    ours = [span for span in spans if span.trace_id == whole.trace_id]
    attempts = [span for span in ours if span.name == "attempt"]
    assert [attributes(span)["panda.attempt_nr"] for span in attempts] == [1, 2]
    assert {span.parent_span_id for span in attempts} == {whole.span_id}
    phases = [span for span in ours if span.parent_span_id == attempts[1].span_id]
    assert [span.name for span in phases] == ["stage_in", "run", "stage_out"]
    for span in attempts:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert whole.start_time_unix_nano <= span.start_time_unix_nano


def test_a_collector_that_is_not_there_costs_no_job(tmp_path):
    async def test(one) -> None:
        traces = Traces(one.service, "http://127.0.0.1:1")
        ids = await one.submit()
        worker = await one.worker()
        (only,) = await worker.acquire()
        assert await worker.report(only) == "accepted"
        assert await one.state(ids[0]) == JobState.FINISHED
        # Else its thread begins anew in each process that a later test forks, such as a guardian.
        for processor in traces._provider._active_span_processor._span_processors:
            processor.span_exporter.shutdown()
        await traces.close()

    run(test, tmp_path)
