"""Faults seeded into the example sites: each is found by its rule, at its line, with a remedy or a
reason, and nothing else is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harvester_edge import lint
from harvester_edge.cli import main
from harvester_edge.lint.rules import RULES

SHIPPED = Path(__file__).parent.parent.parent / "site_configs"

PANDA = "dispatcher:\n  panda: {harvester_id: e, pilot_token_file: /home/edge/.config/ailurus/%s}\n"

# the site, what stands there, what a tired admin wrote, the rule, where the fault is told (default:
# there)
SEEDED = [
    ("nersc-perlmutter", "  options: {account", "  options: [account", "E001", None),
    ("vega", "schema: 1", "schema: 1\nsite: vega", "E002", "site: vega\nextends"),
    ("vega", "paths:\n  work", "paths: &p\n  <<: *p\n  work", "E003", "<<: *p"),
    ("vega", "software: [/cvmfs]", "software: !!python/name:os.system x", "E003", None),
    ("olcf-frontier", "slurm-wholenode", "slurm-whole-node", "E005", None),
    ("alcf-polaris", "walltime: 6h", "walltime: 6 hours", "E010", None),
    ("alcf-polaris", "memory: 480GiB", "memory: 480 gigabytes", "E010", None),
    ("alcf-polaris", "gpus: 4,", "gpus: four,", "E010", None),
    ("example-t2", "max_total: 2000", "max_total: -1", "E010", None),
    ("example-t2", "queue: EXAMPLE_T2_MCORE", "queue: EXAMPLE T2", "E010", None),
    ("nersc-perlmutter", "stop_at: 95%", "stop_at: 0.95", "E010", None),
    ("nersc-perlmutter", "period: year", "period: fortnight", "E011", None),
    ("vega", "  - slots.big.disk", "  - slots.large.disk", "E011", "confirm:"),
    ("vega", "scaling:\n  max_total: 100", "scaling:\n  maxTotal: 100\n  max_total: 100", "E012", "maxTotal"),
    ("bsc-marenostrum5", "slots:\n", "slot: {}\nslots:\n", "E012", "slot: {}"),
    ("bsc-marenostrum5", "queue: BSC_MareNostrum5, ", "", "E013", "gpp: {"),
    ("olcf-frontier", "signal_before: 900", "signal_befor: 900", "E020", None),
    ("alcf-polaris", "extends: pbs-wholenode", "extends: pbs-wholenode\nbackend: {kind: torque9}", "E002", "backend:\n  options"),
    ("example-t2", "options: {accounting", "kind: condor\n  options: {accounting", "E020", "kind: condor"),
    ("bsc-marenostrum5", "signal_before: 900", "signal_before: 15m", "E020", None),
    ("nersc-perlmutter", "work: /pscratch", "work: $PSCRATCH_OF_NOBODY", "E021", None),
    ("example-t2", "max_cores: 8000", "max_cores: 6", "E022", None),
    ("example-t2", "max_cores: 8000", "max_memory: 8GiB", "E022", "max_memory"),
    ("nersc-perlmutter", "node_hours: 20000", "node_hours: 10", "E022", None),
    ("olcf-frontier", "max_queued: 184", "max_queued: 0", "E022", None),
    ("vega", "max_queued: 10", "floor: 101", "E022", "floor"),
    ("olcf-frontier", "walltime: 2h", "walltime: 9m", "E023", "signal_before: 900"),
    ("olcf-frontier", "signal_before: 900", "signal_before: 7200", "E023", None),
    ("vega", "software:", "pilot: {file: /p, program: /q}\nsoftware:", "E024", "pilot:"),
    ("vega", "software:", 'pilot: {sha256: "%s"}\nsoftware:' % ("0" * 64), "E024", "pilot:"),
    ("vega", "url: https://", "url: http://", "E025", None),
    ("example-t2", "default_output: https://storage", "default_output: https://other", "E026", None),
    ("example-t2", "default_output: https://storage.t2.example/", "default_output: file:///nfs/", "E026", None),
    ("vega", "software:", "storage: {roots: [/home/edge]}\nsoftware:", "E027", "storage:"),
    ("vega", "work: /ceph/hpc/scratch/user/edge/work", "work: /ceph/hpc/scratch/user/edge", "E027", None),
    ("vega", "software: [/cvmfs]", "software: [/cvmfs, /ceph/hpc/scratch/user]", "E027", None),
    ("vega", "software:", "container: {show: [/ceph/hpc/scratch/user]}\nsoftware:", "E027", "container:"),
    ("vega", "software:", "storage: {roots: [/ceph/hpc/scratch/user/edge/work/spool]}\nsoftware:", "E027", "storage:"),
    ("vega", "work: /ceph/hpc/scratch/user/edge/work", "work: /usr/local/work", "E027", None),
    ("vega", "software:", "container: {show: [/home/edge/.config]}\nsoftware:", "E027", "container:"),
    ("bsc-marenostrum5", "poll: 300s", "poll: 5s", "W002", None),
    ("bsc-marenostrum5", "poll: 300s", "poll: 300s, grace: 60s", "W002", None),
    ("nersc-perlmutter", "max_total: 16", "max_total: 160", "W003", None),
    ("alcf-polaris", "contacts: [operations@experiment.example]\n", "", "W004", "schema: 1"),
    ("vega", "state: /home/edge/.local", "state: /tmp", "W005", None),
    ("example-t2", "  s1: {queue: EXAMPLE_T2_SCORE, cores: 1, memory: 2GiB, disk: 20GiB",
     "  s1: {queue: EXAMPLE_T2_MCORE, cores: 8, memory: 16GiB, disk: 160GiB", "W006", None),
    ("alcf-polaris", "url: https://dispatcher.experiment.example", "url: http://127.0.0.1:8080", "W007", None),
    ("vega", "dispatcher:\n", PANDA % "vega.token", "W008", "  panda:"),
    ("vega", "dispatcher:\n", PANDA % "pilots.token, dialect: legacy", "E024", "  panda:"),
    ("vega", "url: https://dispatcher", "url: https://edge:secret@dispatcher", "E028", None),
    ("example-t2", "default_output: https:", "default_output: gopher:", "E020", None),
    ("example-t2", "software:", "container: {default: docker}\nsoftware:", "E020", "container:"),
    ("example-t2", "software:", "container: {default: docker}\npilot: {program: /p}\nsoftware:", "W009", "container:"),
    ("vega", "  - dispatcher.token_file\n", "", "W010", "  token_file:"),
    ("vega", "big: {queue", "big: {nodes: 4, queue", "W011", None),
    ("vega", "big: {queue", "big: {nodes: 40, queue", "E022", None),
    ("vega", "shared: /ceph", "shared: /var/tmp", "W012", None),
    ("vega", "cores: 128", "cores: 1:30", "E010", None),
    ("vega", "dispatcher:\n", PANDA % "pilots.token, run_mode: pull", "E011", "  panda:"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("site", "good", "bad", "rule", "at"),
    SEEDED,
    ids=[f"{n}-{one[3]}" for n, one in enumerate(SEEDED)],
)
def test_a_seeded_fault_is_found_by_its_rule_at_its_line(tmp_path, site, good, bad, rule, at):
    text = (SHIPPED / f"{site}.yaml").read_text()
    assert good in text
    wrong = text.replace(good, bad, 1)
    file = tmp_path / f"{site}.yaml"
    file.write_text(wrong)
    beside = {"W001", "W010"} - {rule}  # nobody has confirmed the examples, nor has their files
    found = [one for one in lint.faults(file) if one.rule not in beside]
    assert {one.rule for one in found} == {rule}, found
    where = bad.splitlines()[-1] if at is None else at
    line = wrong[: wrong.index(where)].count("\n") + 1
    places = {one.line for one in found if one.file == str(file)}
    assert line in places or (not places and all("profiles" in one.file for one in found)), found
    assert all(one.message and one.remedy for one in found), found


def test_at_least_thirty_faults_of_nearly_every_rule_are_seeded():
    assert len(SEEDED) >= 30
    elsewhere = {"E004", "W001"}  # a file that cannot be read, a value to confirm: test_site.py
    assert {one[3] for one in SEEDED} == RULES.keys() - elsewhere


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_example_site_has_nothing_but_values_to_confirm(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".config/ailurus/edge.token"  # which docs/edge.md has one make first
    token.parent.mkdir(parents=True)
    token.write_text("t")
    token.chmod(0o600)
    assert {one.rule for one in lint.faults(file)} <= {"W001"}


def test_each_rule_that_is_told_is_listed(capsys):
    room = Path(lint.__file__).parent
    told = set()
    for file in room.glob("*.py"):
        told |= set(re.findall(r'"([EW]\d\d\d)"', file.read_text()))
    assert told == RULES.keys()
    assert main(["lint", "--rules"]) == 0
    assert "E027" in capsys.readouterr().out
