"""PanDA's texts of architectures: what they mean, and which of them PanDA would misread."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import panda_architecture
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.machine import EachGpu
from ailurus.protocol.submission import jobs_from

NVIDIA = EachGpu(vendor="nvidia")
ROOMY = EachGpu(vendor="nvidia", memory_mb=40_960)
LARGE = EachGpu(vendor="nvidia", model=("A100", "H100"), memory_mb=40_960, cuda="12.0")
JSON = """{"cpu_specs": [{"arch": "x86_64", "vendor": "*", "instr": "avx2"}],
    "cpu_pref": {"preferred_architecture_level": "x86_64-v3"}}"""


@pytest.mark.parametrize(
    ("text", "arch", "gpu"),
    [
        ("", (), None),
        ("x86_64-centos7-gcc8-opt", ("x86_64",), None),
        ("#x86_64-*-avx2", ("x86_64-v3",), None),
        ("#(x86_64-*-avx512f|aarch64)", ("x86_64-v4", "aarch64"), None),
        ("#x86_64-*-avx2&nvidia", ("x86_64-v3",), NVIDIA),
        ("x86_64-el9#*", (), None),
        ("#&nvidia", (), NVIDIA),
        ("&*", (), EachGpu()),
        ("&nvidia-A100", (), EachGpu(vendor="nvidia", model=("A100",))),
        ("&nvidia:model=.*(A100|H100).*:vram>=40960:cuda>=12.0", (), LARGE),
        (JSON, ("x86_64-v3",), None),
        ({"gpu_spec": {"vendor": "nvidia", "vram": ">=40960"}}, (), ROOMY),
        ({"sw_platform": "x86_64-el9-gcc13-opt"}, ("x86_64",), None),
    ],
)
def test_what_a_text_means(text, arch, gpu):
    assert panda_architecture.read(text) == (arch, gpu)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("#x86_64-v3", "'v3'"),
        ("#x86_64&nvidia:vram=>5", "'=>'"),
        ("&nvidia:vram<=5", "vram<=5"),
        ("&nvidia:speed>=5", "'speed'"),
        ("&nvidia:uarch=Ampere", "microarchitecture"),
        ("&nvidia:model!=.*(P100|V100).*", "P100|V100"),
        ("&nvidia:model=A[0-9]+", "A[0-9]+"),
        ("&intel", "vendor"),
        ("#x86_64-intel-avx2", "'intel'"),
        ("#x86_64-*-amx", "'amx'"),
        ("#sparc", "'sparc'"),
        ("#(x86_64", "one bracket"),
        ("@el9#x86_64", "base platform"),
        ("x86-64-el9", "'x86'"),
        ('{"cpu": "x86_64"}', "'cpu'"),
        ('{"cpu_specs": [{"arch": "x86_64", "level": "v3"}]}', "'level'"),
        ('{"gpu_spec": {"model": {"pattern": "V100", "excl": true}}}', "V100"),
        ('{"cpu_specs": "x86_64"}', "list"),
        ("{", "JSON"),
        (["x86_64"], "expected"),
    ],
)
def test_what_panda_would_misread_is_refused_by_name(text, names):
    with pytest.raises(AilurusError, match=re.escape(names)):
        panda_architecture.read(text)


@given(st.text('x86_4armnvidi-*#&@()|:<>=!{}". ', max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        wanted = panda_architecture.read(text)
    except AilurusError:
        return
    jobs_from({"name": "a", "command": "true", "architecture": text, "gpus": int(bool(wanted.gpu))})


KEYS = [
    "sw_platform", "base_platform", "cpu_specs", "gpu_spec", "cpu_pref", "arch", "vendor", "instr",
    "model", "pattern", "excl", "vram", "version", "x",
]  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["x86_64", "*", ">=5", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
)


@given(values | st.fixed_dictionaries({}, optional={"gpu_spec": values, "cpu_specs": values}))
def test_any_object_is_read_or_refused(tree):
    with suppress(AilurusError):
        assert panda_architecture.read(tree)


def test_a_job_file_takes_it_as_it_is():
    (job,) = jobs_from({"name": "a", "command": "true", "architecture": "#x86_64-*-avx2&nvidia"})
    assert (job.arch, job.gpus, job.each_gpu) == (("x86_64-v3",), 1, NVIDIA)
