"""What all messages of the native API are made of: the kinds of a message, and types of their
fields."""

from __future__ import annotations

from typing import dataclass_transform

from msgspec import Struct, field


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class StrictRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Something a user sends: an unknown field is an error, not a typo unnoticed."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class LenientRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something a pilot or an edge sends: what a newer one says beside is not understood, and no
    error."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Answer(Struct, frozen=True, kw_only=True):
    """Something the dispatcher says: a client ignores what it does not know yet."""


class Problem(Answer):
    """An error (RFC 9457 application/problem+json), with the field and what would help."""

    title: str
    status: int
    detail: str = ""
    field: str = ""
    remedy: str = ""
    type: str = "about:blank"
    # The dispatcher's name, as in `Registered.giver`; empty: it does not know whom it refuses.
    giver: str = ""


class Done(Answer):
    ok: bool = True
