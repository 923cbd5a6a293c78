"""Whose fault a failure is, as far as its code tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ailurus.protocol.errors import NODES, Code


class Fault(StrEnum):
    """Who can mend it."""

    PAYLOAD = "payload"
    """What was submitted: its program, or what it asks for."""
    INPUT = "input"
    """What it reads, wherever that should come from."""
    SITE = "site"
    """Storage, services or the batch system of the site."""
    NODE = "node"
    US = "us"
    """A bug of ours."""
    UNKNOWN = "unknown"
    """A code that only others give."""


F, C = Fault, Code
_INPUT = (
    C.STAGE_IN_FAILED, C.NO_SUCH_FILE, C.GET_MD5_MISMATCH, C.GET_ADLER_MISMATCH, C.STAGE_IN_TIMEOUT,
    C.NO_REPLICAS, C.MISSING_INPUT, C.INPUTS_TOO_LARGE, C.IMAGE_NOT_FOUND, C.PARENT_FAILED,
)  # fmt: skip
_SITE = (
    C.STAGE_OUT_FAILED, C.PUT_MD5_MISMATCH, C.PUT_ADLER_MISMATCH, C.STAGE_OUT_TIMEOUT,
    C.RUCIO_UNAVAILABLE, C.SERVICE_UNAVAILABLE, C.COMMAND_TIMEOUT, C.PREEMPTED, C.KILL_SIGNAL,
    C.SIGTERM, C.SIGQUIT, C.SIGXCPU, C.SIGUSR1, C.SIGINT, C.STORAGE_FORBIDDEN,
)  # fmt: skip
_PAYLOAD = (
    C.WORKDIR_TOO_LARGE, C.STDOUT_TOO_BIG, C.OUTPUT_TOO_LARGE, C.LOOPING_JOB, C.MISSING_OUTPUT,
    C.BAD_FILE_NAME, C.OUT_OF_MEMORY, C.WALLTIME, C.OVER_MEMORY, C.PAYLOAD_FAILED, C.OUTPUT_UNSAFE,
    C.IMAGE_UNUSABLE, C.NO_PROTOCOL, C.NOT_IMPLEMENTED, C.MISSING_CREDENTIALS,
    C.CREDENTIAL_EXPIRED, C.KILLED_BY_SERVER,
)  # fmt: skip
_US = (C.GENERAL_ERROR, C.INTERNAL, C.NOT_HANDED_OUT)
TABLE: Mapping[int, Fault] = {
    **dict.fromkeys(_INPUT, F.INPUT),
    **dict.fromkeys(_SITE, F.SITE),
    **dict.fromkeys(_PAYLOAD, F.PAYLOAD),
    **dict.fromkeys((*NODES, C.LOST_HEARTBEAT), F.NODE),
    **dict.fromkeys(_US, F.US),
}


def fault_of(code: int) -> Fault:
    """Whose fault a failure with this code is."""
    return TABLE.get(code, Fault.UNKNOWN)


def codes_of(fault: Fault) -> tuple[int, ...]:
    """The codes of failures that are somebody's fault; of `UNKNOWN` none are known."""
    return tuple(sorted(code for code, whose in TABLE.items() if whose is fault))
