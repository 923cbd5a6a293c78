"""The kinds of messages of the native API, and those that several callers use."""

from __future__ import annotations

from typing import dataclass_transform

from msgspec import Struct, field


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class StrictRequest(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A request of a user or a relay: an unknown field is an error, so that no typo goes
    unnoticed."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class LenientRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request of a pilot or an edge: fields that a newer version adds are ignored."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Answer(Struct, frozen=True, kw_only=True):
    """A response of the dispatcher: a client ignores fields that it does not know."""


class Problem(Answer):
    """An error (RFC 9457 application/problem+json), with the field at fault and a remedy."""

    title: str
    status: int
    detail: str = ""
    field: str = ""
    remedy: str = ""
    type: str = "about:blank"
    # The dispatcher's name, as in `Registered.giver`; empty: it does not know the caller.
    giver: str = ""


class Done(Answer):
    ok: bool = True
