"""What kind of machine a worker has."""

from __future__ import annotations

import pytest

from ailurus.protocol.hardware import GpuModel, Hardware, architecture, in_words

V2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "", "x86-64"),
        ("x86_64", V2, "x86-64-v2"),
        ("x86_64", V3, "x86-64-v3"),
        ("x86_64", V4, "x86-64-v4"),
        ("x86_64", V4.replace("avx2 ", ""), "x86-64-v2"),
        ("aarch64", "", "aarch64"),
        ("ppc64le", V4, "ppc64le"),
    ],
)
def test_levels_are_those_of_the_psabi(machine, flags, expected):
    assert architecture(machine, flags.split()) == expected


def test_a_machine_in_words():
    gpus = (
        GpuModel(count=4, vendor="nvidia", model="NVIDIA H200"),
        GpuModel(count=1, vendor="amd"),
    )
    assert (
        in_words(Hardware(arch="x86-64-v4", gpus=gpus)) == "x86-64-v4, 4 × NVIDIA H200, 1 × amd GPU"
    )
    assert in_words(Hardware()) == ""
