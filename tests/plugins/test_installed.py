"""Plugins of a distribution outside the tree, found by their entry points: `examples/plugins`."""

from __future__ import annotations

from msgspec.structs import replace

from ailurus.protocol.job import InputFile
from ailurus.protocol.states import JobState
from harvester_edge.batch import batch_class
from harvester_edge.lint import faults
from harvester_edge.ports import Accepted, Order, Rejected, Tag
from tests.pilot import conftest as pilots

field, shared_dispatcher = pilots.field, pilots.shared_dispatcher

SITE = """\
schema: 1
site: outside
dispatcher: {url: "https://dispatcher.example", token_file: /etc/ailurus/token}
backend: {kind: ledger, options: {most_workers: 3}}
paths: {work: /scratch/pilots, state: /var/lib/outside, shared: /shared/outside}
scaling: {max_total: 10}
container: {default: lowest, bare: true}
slots:
  one: {queue: q, cores: 1, memory: 2GiB, disk: 10GiB, walltime: 1h}
"""


def test_the_edge_finds_a_batch_system(installed, tmp_path):
    kind = batch_class("ledger")
    ledger = kind(kind.Options(most_workers=3), tmp_path, "site", timeout_s=1.0)
    order = Order(script="true", directory=tmp_path, count=2, cores=1, memory_mb=1, disk_mb=1,
                  gpus=0, walltime_s=60)  # fmt: skip
    accepted = ledger.submit(order, Tag("site-1"))
    assert isinstance(accepted, Accepted)
    assert {one.batch_id for one in ledger.listing()} == set(accepted.ids.values())
    ledger.cancel([accepted.ids[0]])
    assert [one.index for one in ledger.listing()] == [1]
    assert len(ledger.find(Tag("site-1"), [], 0.0)) == 2
    assert isinstance(ledger.submit(replace(order, count=4), Tag("site-2")), Rejected)


def test_lint_knows_its_options_and_the_container(installed, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    assert [one for one in faults(path) if one.key.startswith(("backend", "container"))] == []
    path.write_text(SITE.replace("most_workers", "most_wokers").replace(" lowest", " lowst"))
    assert {one.key for one in faults(path)} >= {
        "backend.options.most_wokers",
        "container.default",
    }


def test_a_pilot_brings_a_file_by_it_and_runs_a_payload_in_its_container(installed, field):
    field.write_site(container={"default": "lowest", "bare": True})
    job_id = field.submit(
        "cat words; nice", inputs=(InputFile(name="words", url="text://anywhere/hello"),)
    )
    pilot = field.pilot("--max-jobs", "1", environment=installed)
    assert field.dispatcher.final(job_id).row.state is JobState.FINISHED
    assert field.dispatcher.log(job_id) == "hello19\n"
    assert pilot.ended() == 0
