"""What a job says of the payloads that it carries: which, how often tried, and how many suffice.

They do not lie in its specification but beside it, in a list that its submitter uploaded in slices
before; `ailurus.protocol.item` is one of them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import Key

MOST_ITEMS = 10_000_000
"""Of one job."""
DEFAULT_TRIES = 3
ALL = "all"

Tries = Annotated[int, Meta(ge=1, le=100)]
Goal = Annotated[
    str,
    Meta(
        max_length=20,
        pattern=r"^(all|[1-9][0-9]*|(100(\.0+)?|[1-9]?[0-9](\.[0-9]+)?)%)(?!\n)$",
        description="all, a share as 95%, or a number of payloads",
    ),
]
"""How many payloads must finish so that their job does."""


class Payloads(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """The payloads of a job: a list that its submitter has uploaded."""

    list: Key
    count: Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
    """How many there are in it."""
    shared: bool = False
    """They are of a step of a task, and other jobs run some of them: no user submits such a job."""


def needed(goal: str, count: int) -> int:
    """How many of `count` payloads must finish. Raises AilurusError for more than there are."""
    if goal == ALL:
        return count
    if goal.endswith("%"):
        whole, _, part = goal[:-1].partition(".")
        # In whole numbers, rounded up: 95% of 20 is 19, whatever a float says.
        most: int = 100 * 10 ** len(part)
        share = min(int(whole + part), most)
        return -(-count * share // most)
    if int(goal) > count:
        raise AilurusError(
            f"{goal} payloads are to finish, and there are {count}",
            field="goal",
            remedy=f"at most {count}, a share, or `all`",
        )
    return int(goal)
