"""What an agent does beside its loop always comes to something that the pilot is told."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from ailurus.protocol.errors import Code
from pilot.agents.chores import explanation
from pilot.node_ports import Exit, Explanation
from pilot.ports import JobError, ProcessEnd


def raising(error: Exception) -> Callable[[], Explanation]:
    def explain() -> Explanation:
        raise error

    return explain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("of ours"), Code.INTERNAL),
        (JobError(Code.CONTAINER_FAILED, "broken"), Code.CONTAINER_FAILED),
        (OSError(errno.ENOSPC, "full"), Code.NO_LOCAL_SPACE),
    ],
)
def test_an_end_that_cannot_be_explained_is_told_with_the_reason(
    error: Exception, code: Code
) -> None:
    found = explanation(Exit(ProcessEnd(key=1, exit_code=1), raising(error)))
    assert found.error is not None
    assert found.error.code is code
