"""The site files that are shipped are good, and their schema is the one of the type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harvester_edge import lint
from harvester_edge.site import json_schema

SHIPPED = Path(__file__).parent.parent.parent / "site_configs"


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_site_has_no_fault(file):
    assert [str(fault) for fault in lint.faults(file) if not fault.rule.startswith("W")] == []
    lint.load(file)


def test_the_schema_for_editors_is_the_types():
    """If not: `python -m harvester_edge.site > site_configs/site.schema.json`."""
    kept = json.loads((SHIPPED / "site.schema.json").read_text())
    assert kept == json.loads(json.dumps(json_schema()))


@pytest.mark.parametrize(
    "file", sorted(SHIPPED.glob("profiles/*.yaml")), ids=lambda file: file.stem
)
def test_a_profile_names_no_site(file):
    tree = yaml.safe_load(file.read_text())
    assert not {"site", "dispatcher", "paths", "slots"} & tree.keys()
