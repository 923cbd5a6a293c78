"""The supervisor of a payload on several nodes: what counts there, and what in all."""

from __future__ import annotations

from ailurus.protocol.errors import Code
from ailurus.protocol.messages.usage import NodeUsage
from pilot.samples import LocalFiles, Sample
from pilot.site import Limits
from tests.pilot.node.watch import MB, Watch


def told(watch: Watch, node: str, **fields: object) -> Code | None:
    watch.clock.forward(1)
    sample = Sample(key=watch.attempt.name, **{"processes": 1, **fields})
    watch.supervisor._take(node, [sample], watch.clock.now)
    return watch.attempt.stopped.code if watch.attempt.stopped else None


def test_usage_is_the_sum_over_nodes(watched):
    watch = watched(nodes=2)
    told(watch, "n1", cpu_s=3.0, rss_kb=50, read_bytes=1, write_bytes=2)
    told(watch, "n2", cpu_s=4.0, rss_kb=60, read_bytes=3, write_bytes=4)
    usage = watch.attempt.usage
    assert (usage.cpu_s, usage.rss_kb, usage.processes) == (7.0, 110, 2)
    assert (usage.read_bytes, usage.write_bytes) == (4, 6)
    # Nothing of it runs on the second node any more; what it did there stays.
    watch.supervisor._take("n2", [], watch.clock.now)
    usage = watch.attempt.usage
    assert (usage.cpu_s, usage.rss_kb, usage.max_rss_kb, usage.processes) == (7.0, 50, 110, 1)


def test_what_is_used_on_each_node_is_told_while_it_runs(watched):
    watch = watched(nodes=2)
    told(watch, "n1", cpu_s=3.0, rss_kb=50, gpu_s=1.0, gpu_memory_mb=7)
    told(watch, "n2", cpu_s=4.0, rss_kb=60)
    told(watch, "n2", cpu_s=5.0, rss_kb=40)
    assert watch.attempt.used().cpu_s == 8.0
    assert watch.attempt.used().nodes == (
        NodeUsage(
            node="n1", cpu_s=3.0, rss_kb=50, max_rss_kb=50, processes=1, gpu_s=1.0, gpu_memory_mb=7
        ),
        NodeUsage(node="n2", cpu_s=5.0, rss_kb=40, max_rss_kb=60, processes=1),
    )


def test_memory_is_limited_on_each_node(watched):
    watch = watched(nodes=2, memory_mb=100)
    assert told(watch, "n1", used_kb=90 * MB) is None
    assert told(watch, "n2", used_kb=90 * MB) is None
    assert watch.attempt.usage.max_pss_kb == 180 * MB
    assert told(watch, "n2", used_kb=101 * MB) is Code.OVER_MEMORY


def test_disk_is_limited_on_each_node_and_in_all(watched):
    watch = watched(nodes=2, disk_mb=1)
    assert told(watch, "n1", local=LocalFiles(used_bytes=900 << 10)) is None
    assert told(watch, "n2", local=LocalFiles(used_bytes=900 << 10)) is None
    assert watch.after(10) is None
    (watch.work.directory / "shared").write_bytes(b"x" * (400 << 10))
    assert watch.after(10) is Code.WORKDIR_TOO_LARGE


def test_one_node_alone_may_have_too_much(watched):
    watch = watched(nodes=2, disk_mb=1)
    assert told(watch, "n1", local=LocalFiles(used_bytes=1100 << 10)) is None
    assert watch.after(10) is Code.WORKDIR_TOO_LARGE


def test_a_sign_of_life_on_one_node_is_enough(watched):
    watch = watched(Limits(looping=100), nodes=2)
    for step in range(30):
        told(watch, "n1", cpu_s=0.0)
        told(watch, "n2", cpu_s=5.0 * step)
        assert watch.after(8) is None


def test_a_file_that_changes_on_a_node_is_a_sign_of_life(watched):
    watch = watched(Limits(looping=100))
    for step in range(30):
        told(watch, "n1", local=LocalFiles(mark=step, walks=step))
        assert watch.after(9) is None


def test_what_was_not_read_on_a_node_is_not_judged(watched):
    watch = watched(Limits(looping=100))
    for _ in range(30):
        told(watch, "n1", local=LocalFiles(walks=0))
        assert watch.after(9) is None
    told(watch, "n1", local=LocalFiles(walks=1))
    assert watch.after(9) is Code.LOOPING_JOB


def test_what_a_payload_left_on_a_node_counts(watched):
    watch = watched(disk_mb=1)
    one = watch.supervisor._watched[watch.attempt.name]
    one.left("n1", LocalFiles(used_bytes=2 << 20))
    watch.supervisor._last_look(one)
    assert watch.attempt.stopped.code is Code.WORKDIR_TOO_LARGE


def test_a_sample_of_a_payload_that_has_ended_changes_nothing(watch):
    watch.supervisor._take("n1", [Sample(key="9.9", processes=1)], watch.clock.now)
    assert watch.attempt.usage.processes == 0


def test_the_use_of_gpus_is_summed_and_is_a_sign_of_life(watched):
    watch = watched(Limits(looping=100), nodes=2)
    for step in range(30):
        told(watch, "n1", gpu_s=5.0 * step, gpu_memory_mb=100 + step)
        told(watch, "n2", gpu_s=1.0, gpu_memory_mb=10)
        assert watch.after(8) is None
    usage = watch.attempt.usage
    assert (usage.gpu_s, usage.gpu_memory_mb, usage.max_gpu_memory_mb) == (146.0, 139, 139)


def test_what_each_node_used_is_told_at_the_end(watched):
    watch = watched(nodes=2)
    told(watch, "n1", cpu_s=3.0, rss_kb=50)
    told(watch, "n2", cpu_s=4.0, rss_kb=60, write_bytes=7)
    told(watch, "n2", cpu_s=5.0, rss_kb=20, write_bytes=7)
    assert watch.attempt.usage.nodes == ()
    watch.supervisor._last_look(watch.supervisor._watched[watch.attempt.name])
    assert watch.attempt.usage.nodes == (
        NodeUsage(node="n1", cpu_s=3.0, max_rss_kb=50),
        NodeUsage(node="n2", cpu_s=5.0, max_rss_kb=60, write_bytes=7),
    )
