"""Runs as bars in lanes."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from dispatcher.rules import timeline as t
from dispatcher.rules.worker_records import RunRecord

END = 1000.0
moments = st.integers(0, int(END)).map(float)


@st.composite
def some_runs(draw: st.DrawFn) -> t.Run:
    begin, end = sorted([draw(moments), draw(moments)])
    still = draw(st.booleans()) and draw(st.booleans())
    bar = m.Bar(job_id=draw(st.integers(1, 9)), begin=begin, end=None if still else end)
    return t.Run(draw(st.sampled_from("ab")), begin, bar.end, draw(st.integers(1, 5)), bar)


def lanes_of(bar: m.Bar) -> list[int]:
    return [lane for first, count in bar.cores for lane in range(first, first + count)]


@given(st.lists(some_runs(), max_size=40), st.integers(0, 8), st.integers(1, 50))
def test_no_two_bars_of_a_lane_overlap_and_use_adds_up(
    runs: list[t.Run], cores: int, parts: int
) -> None:
    sizes = [m.NodeSize(name="a", cores=cores)]
    seen = t.timeline(runs, sizes, begin=0.0, end=END, parts=parts)
    for node in seen.nodes:
        taken: dict[int, float] = {}
        for bar in node.bars:
            for lane in lanes_of(bar):
                assert taken.get(lane, 0.0) <= bar.begin
                assert lane < node.cores
                taken[lane] = END if bar.end is None else bar.end
        core_s = sum(
            run.cores * ((END if run.end is None else run.end) - run.begin)
            for run in runs
            if run.node == node.name
        )
        assert sum(node.used) * END / parts == pytest.approx(core_s, abs=parts)
        assert all(0 <= used <= node.cores + 0.001 for used in node.used)
    widths = Counter(len(lanes_of(bar)) for node in seen.nodes for bar in node.bars)
    whole = [run for run in runs if run.begin < END and (run.end is None or run.end > 0)]
    assert widths == Counter(run.cores for run in whole)


def run(begin: float, end: float | None, cores: int = 1, **more: object) -> t.Run:
    return t.Run("n", begin, end, cores, m.Bar(begin=begin, end=end), **more)  # type: ignore[arg-type]


def test_a_wide_run_lies_on_neighbours_where_there_are_such() -> None:
    runs = [run(0, 9), run(0, 4), run(0, 9), run(5, 9, 2), run(5, 9, 2)]
    assert t.lay(runs, 6) == [((0, 1),), ((1, 1),), ((2, 1),), ((3, 2),), ((1, 1), (5, 1))]


def test_a_gpu_is_a_lane_of_its_own_and_idle_ones_are_seen() -> None:
    runs = [run(0, 5, gpus=("B",)), run(1, 5, gpus=("A",))]
    [node] = t.timeline(
        runs, [m.NodeSize(name="n", cores=4, gpus=3)], begin=0, end=9, parts=1
    ).nodes
    assert node.gpus == ("A", "B", "")
    assert [bar.gpus for bar in node.bars] == [(1,), (0,)]


def test_a_worker_that_claims_a_million_cores_costs_as_much_as_a_large_one() -> None:
    sizes = [m.NodeSize(name="n", cores=1_000_000, gpus=1_000_000)]
    runs = [run(1.0, None, 1_000_000) for _ in range(100)]
    for known in (sizes, ()):
        seen = t.timeline(runs, known, begin=0.0, end=2.0, parts=2)
        (node,) = seen.nodes
        assert node.cores == t.MOST_LANES
        assert len(node.gpus) <= t.MOST_GPUS
        assert node.used == (0.0, 1e8)
        assert [len(lanes_of(bar)) for bar in node.bars] == [t.MOST_LANES, *[0] * 99]


def test_a_worker_that_names_another_node_with_each_run_is_told_of_in_part() -> None:
    runs = [msgspec.structs.replace(run(0.0, 1.0), node=f"n{nr}") for nr in range(t.MOST_NODES + 9)]
    seen = t.timeline(runs, (), begin=0.0, end=1.0, parts=1)
    assert (len(seen.nodes), seen.runs, seen.cut) == (t.MOST_NODES, t.MOST_NODES + 9, True)
    assert not t.timeline(runs[9:], (), begin=0.0, end=1.0, parts=1).cut


def test_more_runs_than_can_be_drawn_are_shown_by_use_alone() -> None:
    runs = [run(n, n + 1) for n in range(t.MOST_BARS + 1)]
    seen = t.timeline(runs, (), begin=0, end=t.MOST_BARS + 1, parts=4)
    assert (seen.runs, seen.drawn) == (t.MOST_BARS + 1, False)
    [node] = seen.nodes
    assert (node.bars, node.cores) == ((), 1)
    assert node.used == pytest.approx([1.0] * 4)
    part = t.timeline(runs, (), begin=10, end=20, parts=4)
    assert (part.runs, part.drawn, len(part.nodes[0].bars)) == (10, True, 10)


def record(**times: float | None) -> RunRecord:
    none = dict.fromkeys(("running", "holding", "ended"))
    values = {"leased": 10.0, **none, **times}
    return RunRecord(
        job_id=1, attempt_nr=1, state="running", timing=None, held=None, owner="", name="",
        items=0, cores=2, **values,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("times", "timing", "span"),
    [
        ({"running": 12.0}, {}, (12.0, None)),
        ({"running": 12.0, "holding": 15.0, "ended": 20.0}, {}, (12.0, 15.0)),
        ({"running": 12.0, "ended": 20.0}, {"stage_out": 3.0}, (12.0, 17.0)),
        ({"ended": 20.0}, {"stage_out": 3.0, "run": 5.0}, (12.0, 17.0)),
        ({"ended": 20.0}, {"run": 50.0}, (10.0, 20.0)),
    ],
)
def test_what_an_older_pilot_did_not_tell_is_known_by_the_states(
    times: dict[str, float | None], timing: dict[str, float], span: tuple[float, float | None]
) -> None:
    found = t.guessed(record(**times), timing, m.Bar(begin=10.0), "host")
    assert found is not None
    assert (found.begin, found.end) == span
    assert (found.node, found.cores) == ("host", 2)


def test_an_attempt_that_never_ran_has_no_bar() -> None:
    assert t.guessed(record(ended=20.0), {"stage_in": 1.0}, m.Bar(begin=10.0), "host") is None
