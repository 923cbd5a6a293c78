"""`dispatcher worker`, and what `show` says of use."""

from __future__ import annotations

import argparse
import io
import time

import pytest

from ailurus.output import Output
from ailurus.protocol import messages as m
from ailurus.protocol.messages.usage import NodeUsage
from ailurus.protocol.resources import Room
from ailurus.protocol.worker import Phase
from dispatcher.cli import lanes, show, words, worker

ROW = m.WorkerRow(
    worker_id=7, site="s", queue="q", host="n1", phase=Phase.ACTIVE, registered=1.0,
    last_heard=2.0, room=Room(cores=0), total=Room(cores=4),
)  # fmt: skip
BAR = m.Bar(job_id=5, name="five", state="running", begin=0.0, cores=((0, 2),), gpus=(0,))


def seen(**facts: object) -> m.Timeline:
    node = m.NodeLanes(name="n1", cores=4, gpus=("G0",), used=(0.0, 0.1, 2.0, 4.0), bars=(BAR,))
    values = {"begin": 0.0, "end": 60.0, "nodes": (node,), "runs": 1, "worker": ROW, **facts}
    return m.Timeline(**values)  # type: ignore[arg-type]


def said(answer: m.Timeline, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.StringIO()

    class Server:
        def call(self, name: str, ask: object, **_: object) -> m.Timeline:
            assert name == "worker_timeline"
            return answer

    monkeypatch.setattr(worker, "connect", lambda args: Server())
    args = type("Args", (), {"id": 7, "begin": None, "end": None})()
    assert worker.main(args, Output(stream=stream)) == 0
    return stream.getvalue()


def test_a_worker_is_shown_with_what_its_cores_did(monkeypatch):
    answer = seen(busy_core_s=30.0, idle_core_s={"nothing": 60.0, "of_tomorrow": 10.0})
    text = said(answer, monkeypatch)
    assert "n1\t4\t1\t38 %\t·▁▄█\n" in text
    assert "busy\t30s\t30 %\nnothing to do\t60s\t60 %\nof_tomorrow\t10s\t10 %\n" in text
    assert "\n5\tfive\trunning\tn1\t2\tG0\t" in text


def test_what_its_jobs_use_on_each_node_is_shown(monkeypatch):
    used = (NodeUsage(node="n1", cpu_s=90.0, rss_kb=2048, max_rss_kb=4096, processes=3, gpu_s=5.0),)
    text = said(seen(used=used), monkeypatch)
    assert "so far:" in text
    assert "\nn1\t90s\t2.1 MB\t4.2 MB\t3\t" in text
    assert "so far:" not in said(seen(), monkeypatch)


def test_an_older_pilots_idle_time_is_not_made_up(monkeypatch):
    text = said(seen(), monkeypatch)
    assert "does not tell" in text
    assert "nothing to do" not in text


def test_what_is_not_drawn_or_not_looked_at_is_said(monkeypatch):
    text = said(seen(drawn=False, runs=5000, cut=True), monkeypatch)
    assert "5000 runs are too many" in text
    assert "not looked at" in text
    bars = tuple(m.Bar(begin=float(n), item=n, job_id=9) for n in range(lanes.MOST_RUNS + 1))
    node = m.NodeLanes(name="n1", cores=1, bars=bars)
    text = said(seen(nodes=(node,)), monkeypatch)
    assert "\n9.30\t" in text
    assert "\n9.0\t" not in text
    assert "the last 30 of 31 runs" in text


def test_use_is_told_in_one_line_with_gpus_where_there_are_some():
    usage = m.Usage(cpu_s=5.0, max_rss_kb=2000, max_pss_kb=1500)
    assert show.used(usage) == "5.0s of CPU, 2.0 MB"
    gpus = m.Usage(cpu_s=5.0, max_rss_kb=2000, gpu_s=3.0, max_gpu_memory_mb=100)
    assert show.used(gpus) == "5.0s of CPU, 2.0 MB, GPUs for 3.0s, 104.9 MB of theirs"


@pytest.mark.parametrize(
    ("text", "at"),
    [("1796069700.5", 1796069700.5), ("2026-11-30T20:15:00Z", 1796069700.0)],
)
def test_a_time_is_what_a_table_shows_or_a_spreadsheet(text, at):
    assert words.moment(text) == at
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    assert words.moment(local) == int(at)


def test_a_time_may_be_so_long_ago():
    assert abs(words.moment("90m") - (time.time() - 5400)) < 60


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "nan", "1e9"])
def test_what_is_no_time_is_wrong_usage(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
        words.moment(text)
