"""PanDA's field `architecture` of a task: as text, `x86_64-el9-gcc13-opt@el9#x86_64-*-avx2&nvidia`,
or as JSON.

PanDA reads both leniently: an operator that it does not know becomes part of a value, a level such
as `x86_64-v3` the name of a vendor, and a key that it does not know is dropped. Such a job runs
nowhere, or on the wrong machine. Here each of them is refused by name, as is what no pilot tells of
its machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.machine import ARCHITECTURES, EachGpu

ANYTHING = frozenset({"", "*", "any"})
LONGEST = 4000
_LEVELS = {
    "x86_64-v2": ("sse3", "ssse3", "sse4_1", "sse4_2", "popcnt"),
    "x86_64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma"),
    "x86_64-v4": ("avx512", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
"""The lowest level that has each set of instructions: a pilot tells the level."""
_ARCHITECTURES = ("x86_64", "aarch64", "ppc64le", "riscv64", "s390x")
_KEYS = {"cuda": "version", "driver": "driver_version", "uarch": "microarchitecture"}
"""Of the text, as they stand in the JSON."""
_CONDITION = re.compile(r"([a-z_]+)\s*([=<>!]+)\s*(.*)", re.DOTALL)
_ALTERNATIVES = re.compile(r"(?:\.\*)?\(?([\w /-]+(?:\|[\w /-]+)*)\)?(?:\.\*)?\$?")
_NUMBER = re.compile(r"\d{1,9}")
_VERSION = re.compile(r"\d{1,4}(?:\.\d{1,4})?")


class Wanted(NamedTuple):
    """What the field says."""

    arch: tuple[str, ...]
    gpu: EachGpu | None
    """None: it asks for no GPU."""


def read(given: object) -> Wanted:
    """What PanDA's text, its JSON as text, or the object in it means. Raises AilurusError, with
    the part that is wrong as its field where it is JSON."""
    if isinstance(given, str):
        if len(given) > LONGEST:
            raise AilurusError(f"more than {LONGEST} characters")
        if not given.lstrip().startswith("{"):
            return _text(given.strip())
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise AilurusError(f"no JSON: {error}") from None
    if not isinstance(given, Mapping):
        raise AilurusError("expected PanDA's text, or the object in its JSON")
    return _object(given)


def _text(text: str) -> Wanted:
    rest, gpus, gpu = text.partition("&")
    rest, cpus, cpu = rest.partition("#")
    platform, bases, _ = rest.partition("@")
    if bases:
        raise _no_base()
    arch = _alternatives(cpu) if cpus else _of_platform(platform)
    return Wanted(arch, _gpu_text(gpu) if gpus else None)


def _of_platform(platform: str) -> tuple[str, ...]:
    """The architecture with which a software platform begins: `x86_64-centos7-gcc8-opt`."""
    name = platform.partition("-")[0]
    if name in ANYTHING:
        return ()
    return _arch(name, "", "")


def _alternatives(text: str) -> tuple[str, ...]:
    text = text.strip()
    if text.startswith("(") != text.endswith(")"):
        raise AilurusError(f"{text!r} has one bracket", remedy="#(x86_64-*-avx2|aarch64)")
    found: list[str] = []
    for spec in text.removeprefix("(").removesuffix(")").split("|"):
        name, *more = spec.split("-")
        if len(more) > 2:
            raise AilurusError(f"{spec!r} has too many parts", remedy="arch-vendor-instructions")
        vendor, instructions = (*more, "", "")[:2]
        if not (arch := _arch(name, vendor, instructions)):
            # Any is one of the alternatives.
            return ()
        found += arch
    return tuple(dict.fromkeys(found))


def _arch(name: str, vendor: str, instructions: str) -> tuple[str, ...]:
    """One alternative; empty: any machine."""
    name, vendor, instructions = (one.strip() for one in (name, vendor, instructions))
    if re.fullmatch(r"v[1-4]", vendor):
        raise AilurusError(
            f"{name}-{vendor}: PanDA takes {vendor!r} for the name of a vendor",
            remedy=f"`arch: {name}-{vendor}` in place of `architecture`",
        )
    if vendor not in ANYTHING:
        raise AilurusError(
            f"{vendor!r}: no pilot tells who made its CPU", remedy=f"write {name}-*-{instructions}"
        )
    if name in ANYTHING and instructions in ANYTHING:
        return ()
    if name not in _ARCHITECTURES:
        raise AilurusError(f"{name!r} is no architecture", remedy=ARCHITECTURES)
    if instructions in ANYTHING:
        return (name,)
    level = next((one for one, has in _LEVELS.items() if instructions in has), "")
    if name != "x86_64" or not level:
        raise AilurusError(
            f"{instructions!r}: no pilot tells whether its CPU has this",
            remedy=f"one of {', '.join(name for has in _LEVELS.values() for name in has)}",
        )
    return (level,)


def _gpu_text(text: str) -> EachGpu:
    name, *conditions = text.split(":")
    vendor, _, model = name.partition("-")
    found: dict[str, Any] = {"vendor": vendor, "model": model}
    for condition in conditions:
        parts = _CONDITION.fullmatch(condition.strip())
        if parts is None:
            raise AilurusError(f"{condition!r} is no condition", remedy="such as vram>=40960")
        key, operator, value = parts.groups()
        if operator not in ("=", "==", ">=", "<=", ">", "<", "!="):
            raise AilurusError(
                f"{operator!r} in {condition!r} is no operator", remedy="such as vram>=40960"
            )
        if key == "model":
            if operator not in ("=", "=="):
                raise _no_exclusion(condition)
            found["model"] = value
        else:
            found[_KEYS.get(key, key)] = operator + value
    return _gpu(found)


def _object(given: Mapping[str, Any]) -> Wanted:
    _known(given, ("sw_platform", "base_platform", "cpu_specs", "gpu_spec", "cpu_pref"), "")
    if given.get("base_platform"):
        raise _no_base()
    arch: list[str] = []
    specs = given.get("cpu_specs") or ()
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        raise AilurusError("expected a list", field="cpu_specs")
    for nr, spec in enumerate(specs):
        if not isinstance(spec, Mapping):
            raise AilurusError("expected an object", field=f"cpu_specs[{nr}]")
        _known(spec, ("arch", "vendor", "instr"), f"cpu_specs[{nr}]")
        one = _arch(*(str(spec.get(key) or "") for key in ("arch", "vendor", "instr")))
        if not one:
            arch.clear()
            break
        arch += one
    if not specs and given.get("sw_platform"):
        arch += _of_platform(str(given["sw_platform"]))
    gpu = given.get("gpu_spec")
    if gpu is not None and not isinstance(gpu, Mapping):
        raise AilurusError("expected an object", field="gpu_spec")
    return Wanted(tuple(dict.fromkeys(arch)), _gpu(gpu) if gpu else None)


def _gpu(given: Mapping[str, Any]) -> EachGpu:
    known = ("vendor", "model", "vram", "version", "microarchitecture", "driver_version")
    _known(given, known, "gpu_spec")
    for key in ("microarchitecture", "driver_version"):
        if given.get(key):
            raise AilurusError(f"{key}: no pilot tells it", remedy="ask for a model, or for cuda")
    vendor, model = str(given.get("vendor") or ""), given.get("model") or ""
    if isinstance(model, Mapping):
        if model.get("excl"):
            raise _no_exclusion(str(model.get("pattern", "")))
        model = model.get("pattern") or ""
    wanted = {
        "vendor": "" if vendor in ANYTHING else vendor,
        "model": _models(str(model)),
        "memory_mb": int(_least(str(given.get("vram") or ""), "vram", _NUMBER) or 0),
        "cuda": _least(str(given.get("version") or ""), "cuda", _VERSION),
    }
    try:
        return msgspec.convert(wanted, EachGpu)
    except msgspec.ValidationError as error:
        raise AilurusError(f"its GPUs: {error}", remedy="vendor is nvidia or amd") from None


def _models(pattern: str) -> list[str]:
    """The names for which a regular expression stands, if it is a name or alternatives."""
    if pattern in ANYTHING or pattern == ".*":
        return []
    found = _ALTERNATIVES.fullmatch(pattern)
    if found is None:
        raise AilurusError(
            f"{pattern!r}: of regular expressions only names with | between them are read",
            remedy="model=.*(A100|H100).*",
        )
    return found[1].split("|")


def _least(text: str, key: str, form: re.Pattern[str]) -> str:
    """The least value that a condition leaves."""
    if not text:
        return ""
    value = text.removeprefix(">=")
    if not form.fullmatch(value.strip()) or value == text:
        raise AilurusError(
            f"{key}{text}: only the least that a GPU must have can be asked for",
            remedy=f"{key}>={'40960' if key == 'vram' else '12.4'}",
        )
    return value.strip()


def _known(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise AilurusError(
                f"{key!r} is no such key", field=where, remedy=f"known: {', '.join(known)}"
            )


def _no_base() -> AilurusError:
    return AilurusError(
        "a base platform: no pilot chooses an image by it", remedy="name it in `container`"
    )


def _no_exclusion(what: str) -> AilurusError:
    return AilurusError(
        f"{what!r} excludes models", remedy="name those on which it can run: model=.*(A100|H100).*"
    )
