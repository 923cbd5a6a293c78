"""What the documentation shows can be used: its files are read by who reads such files, its command
lines by the programs' parsers. (What it tells to type one after the other is typed in
tests/real/test_readme.py, what it runs in parallel in tests/real.)"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher import cli as dispatcher
from dispatcher.auth import oidc
from dispatcher.catalogue import settings
from dispatcher.cli.jobfile import JobFiles
from dispatcher.cli.task import TaskFile
from harvester_edge import cli as edge
from harvester_edge import lint
from pilot import options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(*kinds: str) -> Iterator[tuple[str, str]]:
    """Page and line, and text."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in BLOCK.finditer(text):
            if found[1] in kinds:
                line = text.count("\n", 0, found.start()) + 2
                yield f"{page.relative_to(ROOT)}:{line}", found[2]


def a_job(tree: Mapping[str, Any], file: Path) -> None:
    for one in re.findall(r"upload: \./([\w.-]+)", file.read_text("utf-8")):
        (file.parent / one).touch()
    if not tree.keys() & {"command", "jobs"}:
        file.write_text(
            "name: shown\ncommand: 'true'\n" + file.read_text("utf-8"), encoding="utf-8"
        )
    assert JobFiles([str(file)]).jobs


def a_task(tree: Mapping[str, Any], file: Path) -> None:
    if "task" not in tree:
        file.write_text("task: of-the-page\n" + file.read_text("utf-8"), encoding="utf-8")
    assert TaskFile(str(file)).task.steps


def a_site(tree: Mapping[str, Any], file: Path) -> None:
    """Whole, or what is to stand in a site file."""
    if "schema" not in tree:
        several = "nodes:" in file.read_text("utf-8")
        base = ROOT / "site_configs" / ("vega.yaml" if several else "laptop.yaml")
        whole = {**yaml.safe_load(base.read_text("utf-8")), "confirm": []}
        slot = next(iter(whole["slots"].values()))
        slots = {name: slot | one for name, one in tree.get("slots", {}).items()}
        file.write_text(
            yaml.safe_dump(whole | tree | {"slots": slots or whole["slots"]}), encoding="utf-8"
        )
    assert [one for one in lint.faults(file) if one.rule.startswith("E")] == []


def issuers(tree: Mapping[str, Any], file: Path) -> None:
    # The file of authorities is its reader's alone to open.
    file.write_text(re.sub(r" +ca: .*\n", "", file.read_text("utf-8")), encoding="utf-8")
    assert oidc.read(file)


def a_catalogue(tree: Mapping[str, Any], file: Path) -> None:
    if "kind" not in tree:
        whole = "kind: local\noptions: {directory: /c, storages: {DISK: /d}}\nscopes: {}\n"
        file.write_text(whole + file.read_text("utf-8"), encoding="utf-8")
    assert settings.read(file)


def of_prometheus(tree: Mapping[str, Any], file: Path) -> None:
    assert tree["scrape_configs"][0]["static_configs"]


READERS: Mapping[Callable[[Mapping[str, Any], Path], None], set[str]] = {
    a_job: {"command", "jobs", "payloads", "arch", "gpus"},
    a_task: {"task", "steps"},
    a_site: set(lint.json_schema()["$defs"]["Site"]["properties"]),
    issuers: {"issuers"},
    a_catalogue: {"kind", "staging"},
    of_prometheus: {"scrape_configs"},
}


@pytest.mark.parametrize(
    ("where", "text"), [pytest.param(*one, id=one[0]) for one in blocks("yaml")]
)
def test_a_file_of_the_documentation_is_read(where: str, text: str, tmp_path: Path) -> None:
    tree = yaml.safe_load(text)
    file = tmp_path / "shown.yaml"
    file.write_text(text)
    reader = next((reader for reader, keys in READERS.items() if tree.keys() & keys), None)
    assert reader is not None, f"{where}: nobody knows what file this is"
    reader(tree, file)


def lines() -> Iterator[tuple[str, list[str]]]:
    """The words of each line that calls a program of ours."""
    for where, text in blocks("", "sh", "console"):
        whole = re.sub(r"\\\n", " ", text)
        whole = re.sub(r"<<'(\w+)'\n.*?\n\1$", "", whole, flags=re.MULTILINE | re.DOTALL)
        for line in re.split(r"\n|&&", whole):
            words = re.sub(r"^\$ |\s#.*|\s&\s*$|\s[|>]\s.*|\[.*\]", "", line.strip())
            words = words.replace("…", "--store sqlite:///queue.db")
            if re.match(r"(dist/)?(dispatcher|harvester-edge|pilot) ", words):
                yield where, shlex.split(words)


@pytest.mark.parametrize(("where", "words"), list(lines()))
def test_a_command_of_the_documentation_is_understood(where: str, words: list[str]) -> None:
    program, *rest = words
    if "--version" in rest:
        return
    if program == "dispatcher":
        dispatcher.parser_for(rest[0]).parse_args(rest)
    elif program == "harvester-edge":
        edge.parser_for(rest[0]).parse_args(rest)
    else:
        options.parser_for({}).parse_args(rest)
