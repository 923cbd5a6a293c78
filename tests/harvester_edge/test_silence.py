"""An edge that submits nothing says why: each cause that can be injected binds in `why`, by its own
words."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.ports import Rejected, Unclear
from harvester_edge.record import FAILED_START
from tests.harvester_edge.conftest import World, make_world

# --- each kind of end -----------------------------------------------------------------------------


@pytest.mark.field("K4")
def test_every_ending_is_a_failed_start_or_is_none():
    assert FAILED_START.keys() == set(Ending)


@pytest.mark.field("K4")
@pytest.mark.parametrize("ending", [one for one in Ending if one is not Ending.LOST])
def test_the_breaker_counts_ends_without_a_start(world, ending):
    world.dispatcher.jobs = 1
    for _ in range(6):
        world.cycle()
        world.batch.set(Phase.ENDED, ending, "said so")
    counts = FAILED_START[ending] or ending is Ending.DONE  # done, without ever registering
    if ending is Ending.IDLE_EXIT:
        counts = False
    assert (world.cycle().binding.name == "breaker") is counts
    assert (len(world.batch.orders) == 3) is counts


@pytest.mark.field("K4")
def test_pilots_that_die_at_once_where_no_history_is_open_the_breaker(world):
    world.dispatcher.jobs = 2
    for _ in range(100):
        world.cycle()
        world.batch.jobs.clear()
    decision = world.cycle()
    assert decision.binding.name == "breaker"
    assert "the batch system took it as" in decision.binding.why
    assert len(world.batch.orders) < 8  # 200 s: a probe after a minute
    assert {one.ending for one in world.edge.book.recent()} == {Ending.LOST}


@pytest.mark.field("K4")
def test_one_that_waited_until_its_deadline_is_no_failed_start(world):
    world.dispatcher.jobs = 4
    world.cycle()
    world.clock.forward(2 * 86400 + 10)
    world.batch.set(Phase.ENDED, Ending.CANCELLED)
    world.cycle()
    assert world.edge.book.health("std").failures == 0


@pytest.mark.field("K4")
def test_what_the_edges_own_death_kept_from_being_submitted_is_none(world, monkeypatch):
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    world.dispatcher.jobs = 1
    for _ in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(world.batch, "submit", dies)
            with pytest.raises(KeyboardInterrupt):
                world.cycle()
        world.restart()
        while world.edge.book.live():
            world.dispatcher.jobs = 0
            world.cycle()
        world.dispatcher.jobs = 1
    assert world.edge.book.health("std").failures == 0
    assert world.cycle().submit == {"std": 1}


@pytest.mark.field("K4")
def test_an_order_that_fails_together_is_one_step(world):
    world.configure(max_total=20, max_queued=20, per_cycle=20)
    world.dispatcher.jobs = 20
    world.cycle()
    world.batch.set(Phase.ENDED, Ending.FAILED, "boom")
    world.cycle()
    assert world.edge.book.health("std").failures == 3
    assert world.cycle(seconds=61).binding.name == "breaker"
    assert world.cycle().submit == {"std": 1}  # the probe


# --- a history that fails -------------------------------------------------------------------------


@pytest.mark.field("K2")
def test_a_history_that_fails_is_what_binds(world):
    world.dispatcher.jobs = 2
    world.cycle()
    world.batch.jobs.clear()
    world.batch.no_history = "sacct: Too wide of a date range in query"
    world.cycle(30)
    decision = world.cycle()
    assert (decision.submit, decision.binding.name) == ({}, "history")
    assert "Too wide of a date range" in decision.binding.why
    assert len(world.workers()) == 2


@pytest.mark.field("K2")
@pytest.mark.parametrize("registered", [False, True])
def test_what_no_listing_shows_is_let_go_at_last(world, registered):
    world.dispatcher.jobs = 1
    world.cycle()
    world.dispatcher.jobs = 0
    ((tag, _),) = world.batch.orders
    if registered:
        world.dispatcher.register(tag)
        world.cycle()
        world.dispatcher.end(tag, Ending.LOST)
    world.batch.jobs.clear()
    world.batch.no_history = "condor_history: no history file"
    world.cycle(30, seconds=3600)
    (worker,) = world.workers()
    assert worker.missing is not None
    world.cycle(20, seconds=3600)
    assert world.workers() == []
    (ended,) = world.edge.book.recent()
    assert ended.ending is Ending.LOST
    assert "the history does not answer" in ended.diagnosis


@pytest.mark.field("K2")
def test_one_that_shows_up_again_is_missed_no_longer(world):
    world.dispatcher.jobs = 1
    world.cycle()
    jobs = dict(world.batch.jobs)
    world.batch.jobs.clear()
    world.batch.no_history = "down"
    world.cycle(5)
    world.batch.jobs.update(jobs)
    world.cycle()
    (worker,) = world.workers()
    assert (worker.missing, worker.phase) == (None, Phase.QUEUED)


@pytest.mark.field("K3")
def test_workers_under_another_name_count_and_stop_their_slot(world):
    world.batch.renamed = "grid-pilot"
    world.dispatcher.jobs = 50
    world.configure(max_total=2)
    world.cycle(60)
    assert len(world.batch.jobs) == 2
    assert {one.outcome for one in world.workers()} == {Outcome.ACCEPTED}
    world.configure(max_total=9)
    decision = world.cycle(2)
    assert (decision.submit, decision.binding.name) == ({}, "breaker")
    assert "another name, grid-pilot" in decision.binding.why


@pytest.mark.field("K5")
def test_the_words_of_a_refusal_bind_and_stay_in_status(world):
    from harvester_edge.status import glance

    words = (
        "sbatch: error: Use --account=atlas, please\nBatch job submission failed: Unspecified error"
    )
    world.batch.answers = [Rejected(words)] * 9
    world.dispatcher.jobs = 2
    for _ in range(6):
        decision = world.cycle()
        assert decision.submit == {}
        assert "Use --account=atlas" in decision.binding.why
    assert len(world.batch.orders) == 3
    answer = glance(world.edge.site)
    assert "Use --account=atlas" in answer.slots[0].health.reason
    assert "Use --account=atlas" in answer.decision.sentence


# --- all causes -----------------------------------------------------------------------------------


def _files(world: World, word: str) -> None:
    world.edge.state.chmod(0o777)


def _vanish(world: World, word: str) -> None:
    world.batch.no_history = word
    world.batch.hidden = True
    for key, row in list(world.dispatcher.rows.items()):
        if row.ending is None:
            world.dispatcher.end(key[0], Ending.LOST, key[1])


def _set(**values: str) -> Callable[[World, str], None]:
    def inject(world: World, word: str) -> None:
        for name, value in values.items():
            owner = world.batch if hasattr(world.batch, name) else world.dispatcher
            setattr(owner, name, word if value == "word" else value)

    return inject


def _answers(kind: Any) -> Callable[[World, str], None]:
    def inject(world: World, word: str) -> None:
        world.batch.answers = [kind(word)] * 1000

    return inject


def _phase(phase: Phase, ending: Ending | None = None) -> Callable[[World, str], None]:
    def inject(world: World, word: str) -> None:
        for key, one in world.batch.jobs.items():
            if key not in world.dispatcher.rows:
                world.batch.jobs[key] = type(one)(
                    batch_id=one.batch_id, tag=one.tag, index=one.index, phase=phase, ending=ending,
                    detail=word,
                )  # fmt: skip

    return inject


def _file(name: str) -> Callable[[World, str], None]:
    return lambda world, word: (world.edge.state / name).write_text(word) and None


CAUSES: dict[str, tuple[Callable[[World, str], None], str]] = {
    "paused": (_file("pause"), "word"),
    "drained": (_file("drain"), "word"),
    "the dispatcher is away": (_set(down="yes"), "no dispatcher answers"),
    "the dispatcher plans nothing": (_set(refuses="word"), "word"),
    "no listing": (_set(broken="word"), "word"),
    "directories of everybody": (_files, "others can write"),
    "refused": (_answers(Rejected), "word"),
    "unclear": (_answers(Unclear), "word"),
    "a history that fails": (_vanish, "word|in no listing"),  # before it is asked
    "accepted and never listed": (_set(hidden="yes"), "|in no listing|neither listed"),
    "under another name": (_set(renamed="word"), "word|in no listing"),
    "ended at once": (_phase(Phase.ENDED, Ending.FAILED), "word"),
    "cancelled by somebody": (_phase(Phase.ENDED, Ending.CANCELLED), "word"),
    "held": (_phase(Phase.HELD), "word"),
}


QUEUED = 4


def _heal(world: World) -> None:
    """All causes are gone, but for what they have left behind."""
    for name in ("pause", "drain"):
        (world.edge.state / name).unlink(missing_ok=True)
    world.edge.state.chmod(0o755)
    world.dispatcher.down, world.dispatcher.refuses = False, ""
    world.batch.broken = world.batch.no_history = world.batch.renamed = ""
    world.batch.hidden, world.batch.answers = False, []


def _work(world: World) -> None:
    """What waits in the batch system starts, and its pilots register."""
    for key, one in world.batch.jobs.items():
        if one.phase is Phase.QUEUED and key not in world.dispatcher.rows:
            world.dispatcher.register(*key)


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_alone_stops_the_edge_and_binds_by_its_own_words(cause, tree):
    assert _lives([(cause, 30)], Path(tree["paths"]["state"]).parent) > 0


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(CAUSES)), st.integers(1, 12)), min_size=2, max_size=4)
)
def test_whenever_nothing_is_submitted_a_cause_that_was_injected_binds(steps):
    with tempfile.TemporaryDirectory() as place:
        _lives(steps, Path(place))


def _lives(steps: list[tuple[str, int]], place: Path) -> int:
    """Let an edge live through causes, one after the other; how many cycles submitted nothing. More
    jobs wait than ever find a worker, so that an edge without any cause submits in each cycle."""
    place.chmod(0o755)
    (place / "edge.token").write_text("t")
    world = make_world({
        "schema": 1, "site": "demo", "backend": {"kind": "local"},
        "dispatcher": {"url": "http://127.0.0.1:9", "token_file": str(place / "edge.token")},
        "paths": {"work": str(place / "work"), "state": str(place / "state")},
        "slots": {"std": {"queue": "demo", "cores": 1, "memory": "4000M", "disk": "10G", "walltime": "1h"}},
        "scaling": {"max_total": 1000, "max_queued": QUEUED, "per_cycle": 2, "idle_exit": "60s"},
        "pilot": {"program": "/bin/true"},
    })  # fmt: skip
    world.dispatcher.jobs = 100_000
    silent, told = 0, []
    try:
        for nr, (name, cycles) in enumerate(steps):
            inject, expected = CAUSES[name]
            word = f"word-{nr}"
            told += [one for one in expected.replace("word", word).split("|") if one]
            for _ in range(cycles):
                inject(world, word)
                decision = world.cycle()
                if not decision.submit:
                    silent += 1
                    assert any(one in decision.binding.why for one in told), (
                        steps,
                        decision.sentence,
                    )
                    assert decision.binding.allowed <= 0
            # Hidden workers counted for nothing: once they are shown again there are too many.
            if len(world.batch.jobs) > QUEUED:
                told.append("wait to start")
            _heal(world)
            _work(world)
    finally:
        world.edge.book.close()
    return silent
