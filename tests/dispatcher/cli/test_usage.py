"""`dispatcher usage` says what was used in hours and shares."""

from __future__ import annotations

import io

from inline_snapshot import snapshot

from ailurus.output import Output
from ailurus.protocol import messages as m
from dispatcher.cli import usage

HOUR = 3600.0


def answer(**total: object) -> m.UsageSums:
    alice = m.UsageRow(
        key={"user": "alice"},
        attempts=3,
        finished=2,
        wall_s=2 * HOUR,
        core_s=1500 * HOUR,
        cpu_s=1200 * HOUR,
        memory_mb_s=4000 * HOUR,
        peak_mb_s=1000 * HOUR,
        wasted_core_s={"payload": 300 * HOUR, "lost": 75 * HOUR},
    )
    bob = m.UsageRow(key={"user": "bob"}, attempts=1, finished=1, core_s=HOUR / 8, cpu_s=0.0)
    both = m.UsageRow(
        attempts=4,
        finished=3,
        core_s=1500 * HOUR,
        wasted_core_s={"payload": 300 * HOUR, "lost": 75 * HOUR},
        **total,
    )
    return m.UsageSums(since=86_400.0, until=9e4, rows=(alice, bob), more=0, total=both)


def shown(sums: m.UsageSums, by: str = "user") -> list[str]:
    stream = io.StringIO()
    usage.show(sums, by, Output(stream=stream))
    return stream.getvalue().splitlines()


def test_usage_is_a_table_and_what_was_for_nothing():
    lines = shown(answer(pilot_core_s={"busy": 9 * HOUR, "nothing": 3 * HOUR}))
    assert [line.split("\t") for line in lines[:3]] == snapshot(
        [
            ["user", "core h", "used", "wasted", "wall h", "GB h", "at peak", "attempts", "failed"],
            ["alice", "1500", "80%", "25%", "2", "4", "25%", "3", "33%"],
            ["bob", "0.125", "0%", "0%", "0", "0", "-", "1", "0%"],
        ]
    )
    assert lines[5:] == snapshot(
        ["wasted: payload 300 h, lost 75 h", "pilots: busy 9 h, idle without a job 3 h"]
    )


def test_gpus_are_a_column_where_there_are_any():
    assert "GPU h" not in shown(answer())[0]
    assert "GPU h" in shown(answer(gpu_s=7.0))[0]


def test_a_label_is_called_by_its_name():
    (row, *_) = answer().rows
    of_label = m.UsageRow(key={"label": "mc23"}, core_s=row.core_s)
    total = m.UsageRow(core_s=row.core_s)
    sums = m.UsageSums(since=1.0, until=2.0, rows=(of_label,), more=0, total=total)
    lines = [line.split("\t") for line in shown(sums, "campaign")]
    assert (lines[0][0], lines[1][0]) == ("campaign", "mc23")
