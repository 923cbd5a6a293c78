"""The states that statements name are those of the tables in `ailurus/protocol/states.py`."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from ailurus.protocol import states
from ailurus.protocol.states import AttemptState, JobState, RegistrationState
from ailurus.protocol.task import UNITS_LEFT, TaskState, UnitState
from dispatcher.store.queries import postgres_statements, statements
from dispatcher.tasks import inputs

ALL = {**statements(), **postgres_statements()}
IN = re.compile(r"\bstate (?:not )?in \(([^)]*)\)")
CHAIN = re.compile(r"\b(?:\w+\.)?state (=|<>) '\w+'(?:\s+(?:or|and) (?:\w+\.)?state \1 '\w+')+")
ONE = re.compile(r"\bstate (?:=|<>) '(\w+)'")
WORD = re.compile(r"'(\w+)'")
RAN = states.STAGES.index(JobState.RUNNING)
SETS = [
    states.FINAL,
    states.WITH_WORKER,
    states.UNSUCCESSFUL_ATTEMPT,
    # From when on an attempt has run.
    states.STAGES[RAN:],
    UNITS_LEFT,
    inputs.TO_ASK,
    inputs.NOT_YET,
    inputs.STAGED,
    inputs.OVER,
]


def lists(text: str) -> list[set[str]]:
    found = chain(IN.finditer(text), CHAIN.finditer(text))
    return [set(WORD.findall(match.group())) for match in found]


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if lists(one.text)])
def test_a_list_of_states_in_a_statement_is_a_set_that_the_table_has(name: str) -> None:
    named = [set(map(str, one)) for one in SETS]
    assert [one for one in lists(ALL[name].text) if one not in named] == []


def test_a_statement_names_no_state_that_there_is_not() -> None:
    # A command to a Harvester has states of its own.
    ours = [one.text for one in ALL.values() if "harvester" not in one.text]
    there = {
        *JobState,
        *AttemptState,
        *RegistrationState,
        *UnitState,
        *TaskState,
        *inputs.FileState,
    }
    named = {word for text in ours for word in ONE.findall(text)}
    assert named
    assert named <= there
    assert sum(len(lists(one.text)) for one in ALL.values()) >= len(SETS)
