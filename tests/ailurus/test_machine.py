"""What kind of machine a job needs, in one form, and which machines that is."""

from __future__ import annotations

import fnmatch
import random
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.hardware import GpuModel, Hardware, common
from ailurus.protocol.job import shape_of
from ailurus.protocol.machine import FIELDS, EachGpu, Model, described, lacks, machine_of, met
from ailurus.protocol.submission import check, jobs_from

ONE = {"name": "a", "command": "true"}
NAMES = ["x86_64", "x86-64-v2", "x86_64-v3", "x86-64-v4", "aarch64", "arm64", "ppc64le"]
MODELS = ["A100", "a100-sxm4", "H200", "RTX A*", "*", "Tesla T4", "nvidia", "40GB", "L4"]
CALLED = ["NVIDIA A100-SXM4-40GB", "NVIDIA H200", "Tesla T4", "NVIDIA L40S", "NVIDIA RTX A6000", ""]
wants = st.tuples(
    st.lists(st.sampled_from(NAMES), max_size=4).map(tuple),
    st.none()
    | st.builds(
        EachGpu,
        vendor=st.sampled_from(["", "nvidia", "amd"]),
        model=st.lists(st.sampled_from(MODELS), max_size=3).map(tuple),
        memory_mb=st.sampled_from([0, 1, 40_960, 81_559]),
        cuda=st.sampled_from(["", "11", "12.4", "12.04", "13.0"]),
    ),
)
machines = st.builds(
    Hardware,
    arch=st.sampled_from(["", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"]),
    gpus=st.lists(
        st.builds(
            GpuModel,
            count=st.just(1),
            vendor=st.sampled_from(["nvidia", "amd"]),
            model=st.sampled_from(CALLED),
            memory_mb=st.sampled_from([0, 40_960, 81_559, 143_771]),
        ),
        max_size=3,
    ).map(tuple),
    cuda=st.sampled_from(["", "11.8", "12.4", "12.10", "13.0", "?"]),
)
A100 = GpuModel(count=4, vendor="nvidia", model="NVIDIA A100-SXM4-40GB", memory_mb=40_960)
NODE = Hardware(arch="x86-64-v3", gpus=(A100,), cuda="12.4")


@given(wants, st.randoms())
def test_who_wants_the_same_has_the_same_text(wanted, random):
    arch, gpu = wanted
    again = list(arch) * 2
    random.shuffle(again)
    if gpu is not None:
        models = [one.upper() if random.random() < 0.5 else f" {one} " for one in gpu.model] * 2
        random.shuffle(models)
        gpu = msgspec.structs.replace(gpu, model=tuple(models))
    assert machine_of(again, gpu) == machine_of(*wanted)


@given(wants, wants, machines)
def test_who_wants_more_has_fewer_machines(less, more, machine):
    (arch, gpu), (_, other) = less, more
    both = machine_of(arch, gpu), machine_of((), other)
    if all(met(one, machine) for one in both):
        assert met(machine_of(arch, None), machine)
        assert met(both[0], machine)
    wider = machine_of((*arch, "aarch64") if arch else (), gpu)
    assert met(wider, machine) or not met(both[0], machine)


@given(wants, machines)
def test_what_is_lacking_is_told_unless_it_is_there(wanted, machine):
    text = machine_of(*wanted)
    missing = lacks(text, [machine])
    assert bool(missing) is not met(text, machine)
    assert {one.field for one in missing} <= set(FIELDS)
    assert bool(described(text)) is bool(text)
    assert all(met(text, one) or lacks(text, [one]) for one in (machine, Hardware()))


@given(wants)
def test_who_wants_nothing_takes_any_machine_and_nobody_else_a_silent_one(wanted):
    text = machine_of(*wanted)
    assert met(text, None) is (text == "")


@pytest.mark.parametrize(
    ("has", "wanted", "good"),
    [
        ("x86-64-v4", "x86_64-v3", True),
        ("x86-64-v3", "x86_64-v3", True),
        ("x86-64-v2", "x86_64-v3", False),
        ("x86-64", "x86_64", True),
        ("x86-64", "x86_64-v1", True),
        ("aarch64", "x86_64", False),
        ("aarch64", "arm64", True),
        ("", "x86_64", False),
    ],
)
def test_a_machine_runs_programs_of_the_levels_below_its_own(has, wanted, good):
    assert met(machine_of([wanted], None), Hardware(arch=has)) is good


@pytest.mark.parametrize(
    ("called", "pattern", "good"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100", True),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm4", True),
        ("NVIDIA A1000", "A100", False),
        ("NVIDIA A1000", "A100*", True),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA RTX A6000", "RTX*6000", True),
        ("NVIDIA H200", "*", True),
        ("", "A100", False),
        ("[!a]", "b", False),
    ],
)
def test_a_model_is_known_by_words_of_its_name(called, pattern, good):
    machine = Hardware(gpus=(GpuModel(count=1, model=called),))
    assert met(machine_of([], EachGpu(model=(pattern,))), machine) is good


@given(st.text(max_size=500), st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_any_name_is_matched_with_any_pattern(called, pattern):
    try:
        model = msgspec.convert(pattern, Model)
    except msgspec.ValidationError:
        return
    met(machine_of([], EachGpu(model=(model,))), Hardware(gpus=(GpuModel(count=1, model=called),)))


@given(st.text("ab *", max_size=12), st.text("ab ", max_size=12))
def test_a_star_stands_for_any_characters(pattern, called):
    machine = machine_of((), EachGpu(model=(pattern + "a",)))
    (words,) = msgspec.json.decode(machine)["model"]
    name = " ".join(called.split())
    wanted = fnmatch.fnmatchcase(f" {name} ", f"* {words} *")
    assert met(machine, Hardware(gpus=(GpuModel(count=1, model=called),))) is wanted


def test_what_a_user_wants_of_a_model_costs_others_little():
    """All that a queue has of one user is looked at for each kind of machine, within a change of
    the store: expressions that were compiled took seconds of CPU for it."""
    letters = random.Random(1)
    wanted = [
        machine_of((), EachGpu(model=tuple(_odd(letters) for _ in range(50)))) for _ in range(132)
    ]
    began = time.process_time()
    assert not any(met(one, NODE) for one in wanted)
    assert time.process_time() - began < 0.5


def _odd(letters):
    return "*".join(letters.choice("bcdfghjk") for _ in range(50))


def test_each_gpu_must_be_as_wanted_as_the_job_may_get_any():
    t4 = GpuModel(count=1, vendor="nvidia", model="Tesla T4", memory_mb=15_360)
    mixed = msgspec.structs.replace(NODE, gpus=(A100, t4))
    wanted = machine_of([], EachGpu(memory_mb=40_000))
    assert met(wanted, NODE)
    assert not met(wanted, mixed)
    assert not met(wanted, Hardware(arch="x86-64-v4"))
    (lack,) = lacks(wanted, [mixed])
    assert lack.phrase == "needs GPUs of 40000 MB, has 40960 MB and 15360 MB"


def test_a_job_file_says_it_shortly():
    text = {"count": 2, "model": "A100", "memory": "40GiB", "cuda": 12.4}
    each = {"model": ["a100"], "memory_mb": 40_960, "cuda": "12.4"}
    job, same, plain = jobs_from(
        [
            {**ONE, "gpus": text, "arch": "x86_64-v3"},
            {**ONE, "gpus": 2, "arch": ["x86-64-v3"], "each_gpu": each},
            {**ONE, "gpus": 2},
        ]
    )
    assert (job.gpus, job.each_gpu.memory_mb) == (2, 40_960)
    assert shape_of(job) == shape_of(same)
    assert met(shape_of(job).machine, NODE)
    assert plain.each_gpu is None
    assert shape_of(plain).machine == ""
    (one,) = jobs_from({**ONE, "gpus": {"model": ["H100", "H200"]}})
    assert one.gpus == 1
    check([job, plain, one])


def test_a_sweep_goes_over_models_and_architectures():
    tree = {**ONE, "name": "a_{m}", "gpus": {"model": "{m}"}, "sweep": {"m": ["A100", "H200"]}}
    assert [job.each_gpu.model for job in jobs_from(tree)] == [("A100",), ("H200",)]


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"arch": "x86_64-v5"}, "arch[0]", "x86_64-v4"),
        ({"arch": ["sparc"]}, "arch[0]", "aarch64"),
        ({"gpus": {"cuda": "newest"}}, "gpus.cuda", "12.4"),
        ({"gpus": {"memory": "much"}}, "gpus.memory", "4GiB"),
        ({"gpus": {"memory": -1}}, "gpus.memory", "at least 0"),
        ({"gpus": {"model": "?"}}, "gpus.model[0]", "H200"),
        ({"gpus": {"modle": "H200"}}, "gpus.modle", "did you mean `model`?"),
        ({"gpus": {"count": "two"}}, "gpus.count", ""),
        ({"gpus": {"vendor": "intel"}}, "gpus.vendor", "nvidia or amd"),
        ({"gpus": {"model": "H200"}, "each_gpu": {}}, "gpus", ""),
        ({"gpus": {"count": 0, "model": "H200"}}, "gpus", "how many"),
        ({"architecture": "#x86_64-v3"}, "architecture", "arch: x86_64-v3"),
        ({"architecture": "", "arch": "aarch64"}, "architecture", ""),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_field(fields, field, remedy):
    with pytest.raises(AilurusError) as caught:
        check(jobs_from({**ONE, **fields}))
    assert caught.value.field == f"jobs[0].{field}"
    assert remedy in caught.value.remedy


@given(wants, st.lists(machines, min_size=1, max_size=4))
def test_what_nodes_have_in_common_is_enough_only_if_each_of_them_is(wanted, nodes):
    text = machine_of(*wanted)
    arch = machine_of(wanted[0], None)
    if met(text, common(nodes)):
        assert all(met(arch, one) for one in nodes)
        assert all(met(text, one) for one in nodes if one.gpus)
    assert met(text, common(nodes * 2)) is met(text, common(nodes))
    assert met(text, common(nodes[:1] * 3)) is met(text, common(nodes[:1]))


def test_the_gpus_of_nodes_are_counted_together():
    old = msgspec.structs.replace(NODE, arch="x86-64", cuda="9.2", driver="570.9")
    both = common([msgspec.structs.replace(NODE, driver="570.10"), old, Hardware(arch="x86-64-v4")])
    assert both == Hardware(
        arch="x86-64",
        gpus=(msgspec.structs.replace(A100, count=8),),
        driver="570.9",
        cuda="9.2",
    )
    assert common([Hardware(arch="aarch64"), NODE]).arch == ""
