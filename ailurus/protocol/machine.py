"""What kind of machine a job needs: which architecture, and what each of its GPUs must be.

The wants of a job are one canonical text, its *machine*, a part of its shape: jobs that want the
same have the same text, however they say it. A worker has what its pilot told (`Hardware`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ailurus.protocol.fields import Whole
from ailurus.protocol.hardware import GpuModel, Hardware

ARCHITECTURES = "x86_64, x86_64-v2, x86_64-v3, x86_64-v4, aarch64, ppc64le, riscv64 or s390x"
_OTHERS = "aarch64|arm64|ppc64le|riscv64|s390x"
Architecture = Annotated[
    str,
    Meta(
        max_length=20,
        pattern=rf"^(x86[-_]64(-v[1-4])?|{_OTHERS})(?!\n)$",
        description=ARCHITECTURES,
    ),
]
Vendor = Annotated[
    str, Meta(max_length=6, pattern=r"^(nvidia|amd)?(?!\n)$", description="nvidia or amd")
]
Model = Annotated[
    str,
    Meta(
        max_length=100,
        pattern=r"^[ -~]*[A-Za-z0-9][ -~]*(?!\n)$",
        description="words of a model's name, with * for any characters: H200, RTX A*",
    ),
]
Cuda = Annotated[
    str,
    Meta(
        max_length=9,
        pattern=r"^([0-9]{1,4}(\.[0-9]{1,4})?)?(?!\n)$",
        description="a version such as 12.4",
    ),
]
_X86 = "x86-64"
_NO_WORD = re.compile(r"[^a-z0-9*]+")
_STARS = re.compile(r"\*[* ]*\*")


class EachGpu(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """What each GPU of a job must be. What is blank may be anything."""

    vendor: Vendor = ""
    model: Annotated[tuple[Model, ...], Meta(max_length=50)] = ()
    """One of these, by words of the name that its driver gives it."""
    memory_mb: Whole = 0
    """At least."""
    cuda: Cuda = ""
    """The driver runs programs of this version."""


class _Machine(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The same in one form: each value is written in one way only."""

    arch: tuple[str, ...] = ()
    vendor: str = ""
    model: tuple[str, ...] = ()
    memory_mb: int = 0
    cuda: str = ""


FIELDS = ("arch", "gpus.vendor", "gpus.model", "gpus.memory", "gpus.cuda")
"""What can be wanted, as a job file names it."""
ANY = ""
"""The machine of a job that takes any."""
_encode = msgspec.json.Encoder().encode
_decode = lru_cache(maxsize=10_000)(msgspec.json.Decoder(_Machine).decode)


def machine_of(arch: Sequence[str], gpu: EachGpu | None) -> str:
    """The canonical text of what a job wants; ANY if it wants nothing in particular."""
    gpu = gpu or EachGpu()
    wanted = _Machine(
        arch=_lowest(arch),
        vendor=gpu.vendor,
        model=tuple(sorted({_pattern(one) for one in gpu.model})),
        memory_mb=gpu.memory_mb,
        cuda="{}.{}".format(*_version(gpu.cuda)) if gpu.cuda else "",
    )
    return ANY if wanted == _Machine() else _encode(wanted).decode()


def described(machine: str) -> str:
    """`x86-64-v3 or aarch64, each GPU a100 or h100, 40960 MB of GPU memory, CUDA 12.4`."""
    return ", ".join(one.wanted for one in _parts(machine))


def met(machine: str, hardware: Hardware | None) -> bool:
    """Whether a worker with this hardware has what is wanted; None: it did not tell, and may have
    anything. All of its GPUs must be as wanted: any of them may be the job's."""
    return not machine or (hardware is not None and _met(machine, hardware))


class Lack(Struct, frozen=True):
    """Something that is wanted and that is not there."""

    field: str
    """As a job file names it."""
    wanted: str
    has: str
    """What is there instead: `x86-64-v3`, `none`."""

    @property
    def phrase(self) -> str:
        """`needs x86-64-v4, has x86-64-v3`."""
        return f"needs {self.wanted}, has {self.has}"


def lacks(machine: str, there: Iterable[Hardware]) -> list[Lack]:
    """What is wanted that none of these has; nothing also where each has something of it, and none
    all."""
    there = list(dict.fromkeys(there))
    return [
        Lack(
            one.field, one.wanted, " or ".join(sorted({one.has(each) or "none" for each in there}))
        )
        for one in _parts(machine)
        if not any(one.met(each) for each in there)
    ]


class _Part(Struct, frozen=True):
    """One of the things that are wanted."""

    field: str
    wanted: str
    met: Callable[[Hardware], bool]
    has: Callable[[Hardware], str]


@lru_cache(maxsize=10_000)
def _met(machine: str, hardware: Hardware) -> bool:
    return all(one.met(hardware) for one in _parts(machine))


def _parts(machine: str) -> list[_Part]:
    if not machine:
        return []
    wanted = _decode(machine)
    parts = []
    if wanted.arch:
        text = " or ".join(wanted.arch)
        parts.append(
            _Part(
                "arch",
                text,
                lambda has: any(_runs(has.arch, one) for one in wanted.arch),
                lambda has: has.arch,
            )
        )
    if wanted.vendor:
        parts.append(
            _of_gpus(
                "vendor",
                f"GPUs of {wanted.vendor}",
                lambda gpu: gpu.vendor == wanted.vendor,
                lambda gpu: gpu.vendor,
            )
        )
    if wanted.model:
        parts.append(
            _of_gpus(
                "model",
                f"GPUs {' or '.join(wanted.model)}",
                lambda gpu: any(_is_called(gpu.model, one) for one in wanted.model),
                lambda gpu: gpu.model or "a GPU without a name",
            )
        )
    if wanted.memory_mb:
        parts.append(
            _of_gpus(
                "memory",
                f"GPUs of {wanted.memory_mb} MB",
                lambda gpu: gpu.memory_mb >= wanted.memory_mb,
                lambda gpu: f"{gpu.memory_mb} MB",
            )
        )
    if wanted.cuda:
        parts.append(
            _Part(
                "gpus.cuda",
                f"CUDA {wanted.cuda}",
                lambda has: bool(has.cuda) and _version(has.cuda) >= _version(wanted.cuda),
                lambda has: has.cuda,
            )
        )
    return parts


def _of_gpus(
    field: str, wanted: str, good: Callable[[GpuModel], bool], tell: Callable[[GpuModel], str]
) -> _Part:
    """Something that each GPU must be."""
    return _Part(
        f"gpus.{field}",
        wanted,
        lambda has: bool(has.gpus) and all(map(good, has.gpus)),
        lambda has: " and ".join(dict.fromkeys(map(tell, has.gpus))),
    )


def architecture_name(text: str) -> str:
    """An architecture by its name in `Hardware`: `x86-64-v3` of `x86_64-v3`."""
    return text.replace("_", "-").replace("arm64", "aarch64").removesuffix("-v1")


def _lowest(arch: Sequence[str]) -> tuple[str, ...]:
    """Architectures by their names in `Hardware`, each once; of x86-64 the lowest level, which
    those above it have."""
    names = {architecture_name(one) for one in arch}
    x86 = sorted(one for one in names if one.startswith(_X86))
    return tuple(sorted(names - set(x86[1:])))


def _runs(has: str, wanted: str) -> bool:
    """Whether a machine of one architecture runs programs of another one."""
    if wanted.startswith(_X86):
        return has.startswith(_X86) and has >= wanted
    return has == wanted


def _pattern(text: str) -> str:
    """A pattern of a model's name as words in lower case, with one blank between two."""
    return _STARS.sub("*", _NO_WORD.sub(" ", text.lower())).strip()


def _is_called(model: str, pattern: str) -> bool:
    """Whether the words of a pattern stand in a name: A100 in `NVIDIA A100-SXM4-40GB`."""
    words = _NO_WORD.sub(" ", model.lower().replace("*", " ")).strip()
    # Not as an expression: to compile one costs more than all else, and a user may send thousands.
    text, at = f" {words} ", 0
    for piece in f" {pattern} ".split("*"):
        if (at := text.find(piece, at)) < 0:
            return False
        at += len(piece)
    return True


def _version(text: str) -> tuple[int, int]:
    """Raises nothing for what a pilot tells: what is no version is 0."""
    major, _, minor = text.partition(".")
    numbers = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in (major, minor)]
    return numbers[0], numbers[1]
