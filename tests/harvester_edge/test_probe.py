"""The edge has a pilot try what jobs need, here or on a node, and leaves nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from ailurus.protocol.finding import Finding
from ailurus.protocol.worker import Ending, Phase
from harvester_edge import doctor, probe
from harvester_edge.ports import Accepted, Rejected, Tag, Unclear
from harvester_edge.probe import ProbeRequest
from harvester_edge.site import Site
from tests.harvester_edge.conftest import Clock, MemoryBatch

GOOD = {"about": "storage root://door//", "verdict": "good", "said": "wrote"}
END = {"about": "probe", "verdict": "good", "said": "ended on node7"}


def lines(*findings: object) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in findings)


@pytest.fixture
def pilot(tree, tmp_path):
    """A pilot that does what a test's shell commands say; then the site."""

    def make(commands: str) -> Site:
        program = tmp_path / "pilot-program"
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(0o755)
        return msgspec.convert({**tree, "pilot": {"program": str(program)}}, Site)

    return make


def said(site: Site, **how: object) -> list[Finding]:
    return list(probe.probe(site, ProbeRequest(**how)))


def test_the_pilots_answers_come_one_by_one(pilot):
    site = pilot(f"echo 'a word of the site'\ncat <<'X'\n{lines(GOOD, END)}X")
    assert [one.about for one in said(site)] == ["storage root://door//", "probe"]


def test_the_pilot_is_told_of_the_site_and_of_the_image(pilot, tmp_path):
    site = pilot(f'echo "$@" > {tmp_path}/words; cat "$7" > {tmp_path}/told; echo ')
    said(site, image="docker://x/y")
    words = (tmp_path / "words").read_text()
    assert words.startswith("--probe --queue demo --slot std --site ")
    assert words.endswith("--image docker://x/y\n")
    assert json.loads((tmp_path / "told").read_text())["site"] == "demo"


def test_a_pilot_that_ends_in_between_is_said_with_its_last_words(pilot):
    site = pilot(f"cat <<'X'\n{lines(GOOD)}X\necho 'unknown option --probe' >&2; exit 2")
    first, last = said(site)
    assert (first.about, last.verdict) == ("storage root://door//", "bad")
    assert last.said == "the pilot ended with exit code 2: unknown option --probe"
    assert last.remedy


def test_a_pilot_that_hangs_is_ended(pilot, monkeypatch):
    monkeypatch.setattr(probe, "QUIET_S", 0.5)
    first, last = said(pilot(f"cat <<'X'\n{lines(GOOD)}X\nexec sleep 60"))
    assert first.about == GOOD["about"]
    assert "said nothing" in last.said


def test_a_pilot_that_answers_and_answers_is_ended_too(pilot, monkeypatch):
    monkeypatch.setattr(probe, "MOST_S", 0.5)
    talks = f"while :; do cat <<'X'\n{lines(GOOD)}X\nsleep 0.1; done"
    *answers, last = said(pilot(talks))
    assert answers
    assert "was not done after" in last.said


def test_doctor_tries_nothing_unless_it_is_asked(pilot, tree, tmp_path):
    file = tmp_path / "site.yaml"
    pilot(f"[ $1 = --version ] || touch {tmp_path}/tried")
    told = {**tree, "pilot": {"program": str(tmp_path / "pilot-program")}}
    file.write_bytes(msgspec.json.encode(told))
    list(doctor.examine(file))
    assert not (tmp_path / "tried").exists()
    list(doctor.examine(file, ProbeRequest()))
    assert (tmp_path / "tried").exists()


class Node(MemoryBatch):
    """A batch system on whose node the probe job leaves these words, when it starts."""

    def __init__(self, stdout: str = "", stderr: str = "") -> None:
        super().__init__()
        self.stdout, self.stderr = stdout, stderr

    def submit(self, order, tag):
        outcome = super().submit(order, tag)
        (order.directory / "0" / "stdout").write_text(self.stdout)
        (order.directory / "0" / "stderr").write_text(self.stderr)
        return outcome


@pytest.fixture
def node(pilot, monkeypatch):
    """What a probe on a node says, with that batch system."""
    monkeypatch.setattr(probe, "ARRIVE_S", 0.0)
    monkeypatch.setattr(probe.time, "sleep", lambda seconds: None)
    site = pilot("exit 1")

    def ask(batch: Node, **how: object) -> list[Finding]:
        monkeypatch.setattr(probe, "make_batch", lambda *_: batch)
        found = said(site, **{"slot": "", **how})
        assert list((site.shared / "probes").iterdir()) == []
        return found

    return ask


def test_a_node_answers_by_a_job_that_no_edge_takes_for_its_own(node, tree):
    batch = Node(lines(GOOD, END))
    assert [one.said for one in node(batch)] == ["wrote", "ended on node7"]
    ((tag, order),) = batch.orders
    site = msgspec.convert(tree, Site)
    assert not tag.startswith(site.tag_prefix)
    assert (order.count, order.nodes, order.walltime_s) == (1, 1, 900)
    assert "exec " in order.script
    assert "--probe --queue demo --slot std" in order.script
    assert batch.cancelled == ["1"]


def test_a_job_that_is_refused_or_of_no_slot_is_said(node):
    batch = Node()
    batch.answers = [Rejected("no such account")]
    (only,) = node(batch)
    assert "refused the probe job: no such account" in only.said
    (only,) = node(Node(), slot="none")
    assert (only.verdict, only.remedy) == ("bad", "known: std")


def test_an_unclear_submission_is_cancelled_like_any_other(node):
    batch = Node(lines(END))
    batch.answers, batch.lose_answers = [Unclear("timed out")], True
    assert [one.about for one in node(batch)] == ["probe"]
    assert batch.cancelled == ["1"]


@pytest.fixture
def job(tmp_path):
    """A probe job in a batch system and on a clock that a test moves."""
    batch, clock = MemoryBatch(), Clock()
    place = tmp_path / "0"
    place.mkdir()

    def ask(step=lambda: None) -> list[Finding]:
        def sleep(seconds: float) -> None:
            clock.forward(seconds)
            step()

        one = probe._Job(batch, Tag("ptag"), place, 600.0, clock, sleep)
        return list(one.findings())

    return batch, place, ask


def submitted(batch: MemoryBatch, place: Path, phase: Phase, ending: Ending | None = None) -> None:
    assert isinstance(batch.submit(SimpleNamespace(count=1), Tag("ptag")), Accepted)
    batch.set(phase, ending, "a reason")


def test_a_job_that_never_starts_is_given_up_after_the_wait(job):
    batch, place, ask = job
    submitted(batch, place, Phase.QUEUED)
    (only,) = ask()
    assert only.said == "the probe job did not end within 600 s: it is queued (a reason)"
    assert "--wait" in only.remedy


def test_a_job_that_runs_and_hangs_is_given_up_with_what_it_has_said(job):
    batch, place, ask = job
    (place / "stdout").write_text(lines(GOOD))
    submitted(batch, place, Phase.STARTING)
    passed = []
    first, last = ask(lambda: passed.append(1))
    assert first.about == GOOD["about"]
    assert "said nothing for 250 s" in last.said
    assert len(passed) * batch.poll_s < 320


def test_a_job_that_ends_without_a_word_shows_the_end_of_its_stderr(job):
    batch, place, ask = job
    (place / "stderr").write_text("sh: pilot: not found\n\n")
    submitted(batch, place, Phase.ENDED, Ending.FAILED)
    (only,) = ask()
    assert "ended without an answer: it is failed (a reason): sh: pilot: not found" in only.said


def test_answers_that_arrive_after_the_job_has_left_the_list_count(job):
    batch, place, ask = job
    batch.hidden = True
    steps = iter(range(100))

    def later() -> None:
        if next(steps) == 40:
            (place / "stdout").write_text(lines(GOOD, END))

    assert [one.about for one in ask(later)] == ["storage root://door//", "probe"]
