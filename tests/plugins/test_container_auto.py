"""Which runtime `auto` takes for which job, on which nodes."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from pilot.ports import ContainerSetup
from plugins.container import auto

PLAIN, BOXED = JobSpec(name="j"), JobSpec(name="j", container="/images/x.sif")
GPUS, BOTH = JobSpec(name="j", gpus=1), JobSpec(name="j", container="/images/x.sif", gpus=1)


def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *works: str) -> auto.Auto:
    """`auto` on a node where only these work."""
    for name in ("Bubblewrap", "Apptainer"):

        def start(self: object, _: ContainerSetup, name: str = name) -> None:
            if name not in works:
                raise AilurusError(f"{name} does not work here")

        monkeypatch.setattr(auto, name, type(name, (getattr(auto, name),), {"__init__": start}))
    return auto.Auto(ContainerSetup(directory=str(tmp_path), user="somebody"))


@pytest.mark.parametrize(
    ("works", "names"),
    [
        (["Bubblewrap", "Apptainer"], ["bubblewrap", "bubblewrap", "bubblewrap", "apptainer"]),
        (["Bubblewrap"], ["bubblewrap"] * 4),
        (["Apptainer"], ["apptainer"] * 4),
    ],
)
def test_the_runtime_is_the_best_for_the_job_that_the_node_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, works: list[str], names: list[str]
) -> None:
    chosen = node(monkeypatch, tmp_path, *works)
    assert [chosen.of(spec).name for spec in (PLAIN, GPUS, BOXED, BOTH)] == names


def test_apptainer_is_tried_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = node(monkeypatch, tmp_path, "Bubblewrap")
    monkeypatch.setattr(auto.Apptainer, "__init__", lambda *_: pytest.fail("tried"))
    assert chosen.of(BOXED).name == "bubblewrap"


def test_it_is_said_that_images_would_start_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: list[MutableMapping[str, Any]]
) -> None:
    chosen = node(monkeypatch, tmp_path, "Apptainer")
    for _ in range(2):
        assert chosen.of(BOXED).name == "apptainer"
    (line,) = logged
    assert line["event"] == "images_by_apptainer"
    assert "Bubblewrap does not work here" in line["why"]


def test_a_node_without_either_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AilurusError, match="Bubblewrap does not work here"):
        node(monkeypatch, tmp_path)
