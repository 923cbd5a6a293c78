"""The promises of the port `Batch`, held by every plugin: those that run commands on recorded
answers, `local` on the records that its workers leave on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.worker import Ending, Phase
from harvester_edge.batch import batch_class
from harvester_edge.ports import Accepted, Batch, BatchError, Rejected, Unclear
from plugins import TABLE
from plugins.batch.commands import Ran
from plugins.batch.local import Local, LocalOptions
from tests.plugins.batch_cases import CASES, NO_ANSWER, PREFIX, TAG, Case
from tests.plugins.recordings import HUNG, MISSING, order

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def each(what: Callable[[Case], object]) -> pytest.MarkDecorator:
    """Every answer of a kind, of every plugin."""
    pairs = [(case, one) for case in CASES for one in what(case)]  # type: ignore[attr-defined]
    names = [f"{case}-{n}" for n, (case, _) in enumerate(pairs)]
    return pytest.mark.parametrize(("case", "answer"), pairs, ids=names)


def test_every_plugin_of_the_table_is_tested_here():
    assert {case.kind for case in CASES} | {"local"} == set(TABLE["batch"])


@pytest.mark.parametrize("kind", TABLE["batch"])
def test_every_class_is_complete_and_its_options_refuse_a_typo(kind):
    plugin = batch_class(kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"no_such_option": 1}, plugin.Options)


# --- submit ---------------------------------------------------------------------------------------


@each_case
def test_an_accepted_order_has_an_id_for_each_worker(case, tmp_path):
    batch = case.batch(tmp_path, case.one, case.two)
    assert batch.submit(order(tmp_path), TAG).ids.keys() == {0}
    ids = batch.submit(order(tmp_path, 2), TAG).ids
    assert ids.keys() == {0, 1}
    assert ids[0] != ids[1]


@each(lambda case: case.refusals)
def test_a_refusal_is_rejected_with_its_reason(case, answer, tmp_path):
    outcome = case.batch(tmp_path, answer).submit(order(tmp_path), TAG)
    assert isinstance(outcome, Rejected)
    assert outcome.reason


@each(lambda case: [*case.unclear, Ran(0), *NO_ANSWER])
def test_e2_any_other_answer_is_unclear(case, answer, tmp_path):
    assert isinstance(case.batch(tmp_path, answer).submit(order(tmp_path), TAG), Unclear)


@each_case
def test_a_command_that_is_missing_submitted_nothing(case, tmp_path):
    assert isinstance(case.batch(tmp_path, MISSING).submit(order(tmp_path), TAG), Rejected)


@each_case
def test_a_directory_that_cannot_be_written_submitted_nothing(case, tmp_path):
    batch, player = case.played(tmp_path, case.one)
    assert isinstance(batch.submit(order(tmp_path / "gone"), TAG), Rejected)
    assert player.asked == []


answers = st.builds(Ran, st.integers(-20, 256), st.text(max_size=200), st.text(max_size=200))


@each_case
@given(answer=answers)
def test_whatever_a_submission_prints_is_an_outcome(case, answer, tmp_path_factory):
    root = tmp_path_factory.getbasetemp()
    outcome = case.batch(root, answer).submit(order(root), TAG)
    assert isinstance(outcome, Accepted | Rejected | Unclear)
    assert answer.code == 0 or not isinstance(outcome, Accepted)


# --- listing --------------------------------------------------------------------------------------


@each_case
def test_an_empty_queue_is_an_empty_listing_by_one_command(case, tmp_path):
    batch, player = case.played(tmp_path, case.empty)
    assert batch.listing() == ()
    assert len(player.asked) == 1


@each_case
def test_a_running_worker_is_listed_by_tag_and_index(case, tmp_path):
    (found,) = case.batch(tmp_path, case.alive).listing()
    assert (found.tag, found.index, found.phase) == (TAG, 0, Phase.STARTING)
    assert found.batch_id


@each_case
def test_e4_an_unknown_state_is_no_verdict(case, tmp_path):
    (found,) = case.batch(tmp_path, case.unknown).listing()
    assert (found.phase, found.ending) == (None, None)
    assert "is not known here" in found.detail


@each_case
def test_a_failed_worker_shows_its_last_words(case, tmp_path):
    (tmp_path / TAG / "0").mkdir(parents=True)
    (tmp_path / TAG / "0" / "stderr").write_text("pilot: not found\n")
    (found,) = case.batch(tmp_path, case.failed).listing()
    assert (found.phase, found.ending) == (Phase.ENDED, Ending.FAILED)
    assert found.detail.endswith(": pilot: not found")


@each_case
def test_jobs_of_others_are_not_listed(case, tmp_path):
    assert case.batch(tmp_path, case.others).listing() == ()


@each(lambda case: [*case.no_listing, *NO_ANSWER])
def test_b2_what_is_no_listing_is_no_empty_listing(case, answer, tmp_path):
    with pytest.raises(BatchError):
        case.batch(tmp_path, answer).listing()


@each_case
@given(text=st.text(max_size=300))
def test_whatever_a_listing_prints_is_an_error_or_our_own_workers(case, text, tmp_path_factory):
    batch = case.batch(tmp_path_factory.getbasetemp(), Ran(0, f"{text}\n"))
    try:
        found = batch.listing()
    except BatchError:
        return
    assert all(one.tag.startswith(PREFIX) for one in found)


# --- find, cancel, trial --------------------------------------------------------------------------


@each(lambda _: NO_ANSWER)
def test_a_search_without_an_answer_is_no_absence(case, answer, tmp_path):
    with pytest.raises(BatchError):
        case.batch(tmp_path, answer).find(TAG, (), 60.0)


@each_case
def test_without_a_history_the_queue_is_searched(case, tmp_path):
    batch = case.batch(tmp_path, *_search(case), history=False)
    assert not batch.history
    (found,) = batch.find(TAG, (), 60.0)
    assert (found.tag, found.index) == (TAG, 0)


def _search(case: Case) -> list[Ran]:
    """PBS selects ids first, then shows each job."""
    return [Ran(0, "17.pbshost\n"), case.alive] if case.kind == "pbs" else [case.alive]


@each(lambda case: case.gone)
def test_a_worker_that_has_gone_needs_no_cancel(case, answer, tmp_path):
    case.batch(tmp_path, answer).cancel(["17"])


@each(lambda case: [*case.not_cancelled, HUNG])
def test_a_cancel_that_failed_is_an_error(case, answer, tmp_path):
    with pytest.raises(BatchError):
        case.batch(tmp_path, answer).cancel(["17"])


@each_case
def test_a_thousand_are_cancelled_by_two_commands_and_none_by_none(case, tmp_path):
    batch, player = case.played(tmp_path, Ran(0))
    batch.cancel([])
    assert player.asked == []
    batch.cancel([f"17.{n}" for n in range(1000)])
    assert len(player.asked) == 2


@each_case
def test_a_trial_without_an_answer_raises_and_changes_nothing(case, tmp_path):
    batch, player = case.played(tmp_path, HUNG)
    with pytest.raises(BatchError):
        batch.trial(order(tmp_path), TAG)
    for argv in player.asked:
        dry = any(word.startswith(("--test-only", "-dry-run")) for word in argv)
        assert dry or argv[0] not in case.changing


@each_case
def test_a_prefix_stands_before_every_command(case, tmp_path):
    batch, player = case.played(tmp_path, case.one, case.empty, prefix=["ssh", "login"])
    batch.submit(order(tmp_path), TAG)
    batch.listing()
    batch.cancel(["17"])
    assert len(player.asked) >= 3
    assert all(argv[:2] == ["ssh", "login"] for argv in player.asked)


# --- local, which runs no command -----------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Batch:
    (tmp_path / TAG / "0").mkdir(parents=True)
    return Local(LocalOptions(), tmp_path, PREFIX)


def _records(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        (root / TAG / "0" / name).write_text(text)


def test_local_lists_nothing_where_nothing_was_started(local):
    assert local.listing() == ()
    assert local.find(TAG, (), 60.0) == ()


@pytest.mark.parametrize(
    ("record", "ending", "detail"),
    [
        ("0 1700000000", Ending.DONE, ""),
        ("124 1700000000", Ending.WALLTIME, "reached its walltime"),
        ("3 1700000000", Ending.FAILED, "exit code 3: pilot: not found"),
        ("143 1700000000", Ending.FAILED, "killed by signal 15: pilot: not found"),
        ("", Ending.FAILED, "was killed: no exit record: pilot: not found"),
        ("\0\0\0\0", Ending.FAILED, "was killed: no exit record: pilot: not found"),
    ],
)
def test_local_reads_an_end_from_the_records_of_a_worker(local, tmp_path, record, ending, detail):
    _records(
        tmp_path, spawned="1 1 boot", claim="1 1 boot", ended=record, stderr="pilot: not found\n"
    )
    (found,) = local.listing()
    assert (found.tag, found.index) == (TAG, 0)
    assert (found.phase, found.ending, found.detail) == (Phase.ENDED, ending, detail)


def test_local_lists_only_its_own_prefix(tmp_path):
    _records_of_another = tmp_path / f"x{TAG}" / "0"
    _records_of_another.mkdir(parents=True)
    (_records_of_another / "spawned").write_text("1 1 boot")
    assert Local(LocalOptions(), tmp_path, PREFIX).listing() == ()


def test_local_refuses_what_it_cannot_write(local, tmp_path):
    assert isinstance(local.submit(order(tmp_path / "gone"), TAG), Rejected)


def test_local_cannot_tell_beforehand(local, tmp_path):
    assert local.trial(order(tmp_path), TAG) is None


def test_local_ends_what_never_began(local, tmp_path):
    _records(tmp_path, spawned="1 1 boot")
    local.cancel([f"{TAG}.0"])
    (found,) = local.listing()
    assert (found.phase, found.ending) == (Phase.ENDED, Ending.CANCELLED)


def test_a_plugin_that_lacks_something_is_refused_with_what_it_lacks(monkeypatch):
    monkeypatch.setitem(TABLE["batch"], "half", "tests.plugins.test_batch_contract:Half")
    with pytest.raises(AilurusError, match="the batch plugin half lacks Options, batch_id, cancel"):
        batch_class("half")


class Half:
    """Not a plugin yet."""
