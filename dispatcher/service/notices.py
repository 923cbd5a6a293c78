"""What dispatchers on one store tell each other beside the events: notices that no store keeps.

They are JSON on a channel of the database, read by dispatchers of other versions: the names of
kinds and fields stay as they are, and a kind that is not known here is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from dispatcher.ports import NOTICE_BYTES


class Notice(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """A notice of whatever kind."""


class OfJobs(Notice, frozen=True):
    """A notice about running jobs."""

    job_ids: tuple[int, ...] = ()


J = TypeVar("J", bound=OfJobs)


def parts(notice: J) -> Iterator[J]:
    """The notice in parts of which each is short enough to be sent."""
    half = len(notice.job_ids) // 2
    if half and len(encode(notice).encode()) > NOTICE_BYTES:
        yield from parts(replace(notice, job_ids=notice.job_ids[:half]))
        yield from parts(replace(notice, job_ids=notice.job_ids[half:]))
    else:
        yield notice


class SoftKill(OfJobs, frozen=True, tag="soft_kill"):
    """Their pilots are to ask them to end by themselves."""


class Look(OfJobs, frozen=True, tag="look"):
    """Somebody looks at their logs for so long: their pilots are to send them."""

    seconds: float = 0.0


class TailRequest(OfJobs, frozen=True, tag="tail"):
    """Their pilots are to send the end of a file."""

    text: str = ""
    """The name of the file."""


class CurveRequest(OfJobs, frozen=True, tag="curve"):
    """Whoever hears their pilots is to store their curves."""


class LogArrived(OfJobs, frozen=True, tag="arrived"):
    """Their pilots have sent something to look at."""


class PandaAttempt(OfJobs, frozen=True, tag="panda"):
    """What is known of an attempt in a PanDA client's hands."""

    text: str = ""
    """`OfPanda` as JSON."""


class NodeVerdict(Notice, frozen=True, tag="verdict"):
    """How an attempt ended on a node."""

    text: str = ""
    """`Verdict` as JSON."""
    process: str = ""
    """The sender, which has counted it already."""


class UserSpending(Notice, frozen=True, tag="rates"):
    """What users have spent at the sender."""

    text: str = ""
    """`Spending` as JSON."""
    process: str = ""


AnyNotice = (
    SoftKill
    | Look
    | TailRequest
    | CurveRequest
    | LogArrived
    | PandaAttempt
    | NodeVerdict
    | UserSpending
)


class _Kind(Struct):
    kind: str


_KNOWN = frozenset(one.__struct_config__.tag for one in AnyNotice.__args__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyNotice).decode
_kind = msgspec.json.Decoder(_Kind).decode


def encode(notice: Notice) -> str:
    """The notice as it is sent."""
    return _encode(notice).decode()


def decode(text: str) -> AnyNotice | None:
    """The notice; None for a kind that only a newer version knows. Raises msgspec.DecodeError for
    what is no notice."""
    return _decode(text) if _kind(text).kind in _KNOWN else None
