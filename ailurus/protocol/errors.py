"""PanDA's pilot error codes: the numbers that its server, monitor and users know.

Numbering: PanDA Pilot 3, `pilot/common/errorcodes.py`. Only codes that we report are here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from ailurus.protocol.shown import shown


class Code(IntEnum):
    """Why a job failed. `.text` says it in words, `.transient` whether another attempt may help."""

    text: str
    transient: bool

    def __new__(cls, number: int, text: str, transient: bool = False) -> Self:
        code = int.__new__(cls, number)
        code._value_ = number
        code.text = text
        code.transient = transient
        return code

    OK = 0, "no error"
    GENERAL_ERROR = 1008, "general pilot error", True
    NO_LOCAL_SPACE = 1098, "not enough local disk space", True
    STAGE_IN_FAILED = 1099, "an input file could not be staged in", True
    NO_SUCH_FILE = 1103, "no such file"
    WORKDIR_TOO_LARGE = 1104, "the job's directory grew too large"
    STDOUT_TOO_BIG = 1106, "the payload's stdout or stderr grew too large"
    OUTPUT_TOO_LARGE = 1124, "an output file is too large"
    STAGE_OUT_FAILED = 1137, "an output file could not be staged out", True
    PUT_MD5_MISMATCH = 1141, "md5 mismatch on an output file", True
    KILLED_BY_SERVER = 1144, "killed by the dispatcher"
    GET_MD5_MISMATCH = 1145, "md5 mismatch on an input file", True
    LOOPING_JOB = 1150, "no sign of life from the payload: looping job"
    STAGE_IN_TIMEOUT = 1151, "stage-in timed out", True
    STAGE_OUT_TIMEOUT = 1152, "stage-out timed out", True
    MISSING_OUTPUT = 1165, "an output file is missing"
    INPUTS_TOO_LARGE = 1168, "the input files are too large"
    GET_ADLER_MISMATCH = 1171, "adler32 mismatch on an input file", True
    PUT_ADLER_MISMATCH = 1172, "adler32 mismatch on an output file", True
    BAD_FILE_NAME = 1190, "a file name is not allowed"
    KILL_SIGNAL = 1200, "the pilot was killed", True
    SIGTERM = 1201, "the pilot got SIGTERM", True
    SIGQUIT = 1202, "the pilot got SIGQUIT", True
    SIGXCPU = 1204, "the pilot got SIGXCPU", True
    SIGUSR1 = 1207, "the pilot got SIGUSR1", True
    SIGINT = 1208, "the pilot got SIGINT", True
    OUT_OF_MEMORY = 1212, "the payload ran out of memory"
    WALLTIME = 1213, "the payload reached its time limit"
    OVER_MEMORY = 1235, "the payload exceeded its memory limit"
    PAYLOAD_FAILED = 1305, "the payload failed"
    OUTPUT_UNSAFE = 1303, "an output is not a regular file"
    INTERNAL = 1319, "an internal problem of the pilot", True
    RUCIO_UNAVAILABLE = 1316, "Rucio cannot be asked", True
    NO_REPLICAS = 1326, "an input file has no replica that the site can read"
    MISSING_INPUT = 1331, "an input file is missing from the storage that the catalogue names"
    SERVICE_UNAVAILABLE = 1324, "a service is not available", True
    CONTAINER_MISSING = 1325, "the container runtime is not available", True
    CONTAINER_FAILED = 1306, "the container runtime failed", True
    NO_LOOP_DEVICE = 1307, "no loop device is free for the container image", True
    BIND_FAILED = 1308, "a directory of the site cannot be shown to the payload", True
    IMAGE_UNUSABLE = 1309, "the container image cannot be run"
    IMAGE_NOT_FOUND = 1360, "the container image was not found", True
    NO_USER_NAMESPACE = 1340, "no user namespace can be made on this node", True
    APPTAINER_MISSING = 1372, "Apptainer is not installed on this node", True
    NO_PROTOCOL = 1313, "no data plugin for this URL"
    NOT_IMPLEMENTED = 1300, "this pilot cannot run such a job"
    STORAGE_FORBIDDEN = 1338, "the site does not allow this storage location"
    MISSING_CREDENTIALS = 1364, "a credential that the job names cannot be had"
    CREDENTIAL_EXPIRED = 1373, "a credential of the job has expired"
    RESOURCE_UNAVAILABLE = 1344, "the node lacks something at the moment", True
    COMMAND_TIMEOUT = 1367, "a command timed out", True
    PREEMPTED = 1379, "the batch system preempted the worker", True
    # PanDA's job dispatcher sets these itself, for attempts without a pilot.
    LOST_HEARTBEAT = 100, "lost heartbeat", True
    PARENT_FAILED = 200, "a job that this one depends on did not finish"
    NOT_HANDED_OUT = 201, "the job cannot be handed to a worker as it is stored"


TAKEN_AWAY = frozenset({Code.SIGTERM, Code.SIGXCPU, Code.SIGUSR1, Code.PREEMPTED})
"""Codes of attempts that the site ended with their pilot: no failure of the job."""
NODES = frozenset(
    {
        Code.NO_LOCAL_SPACE,
        Code.RESOURCE_UNAVAILABLE,
        Code.CONTAINER_MISSING,
        Code.CONTAINER_FAILED,
        Code.NO_LOOP_DEVICE,
        Code.BIND_FAILED,
        Code.NO_USER_NAMESPACE,
        Code.APPTAINER_MISSING,
    }
)
"""Codes for a fault of the node. No payload can cause one by how it ends."""


class AilurusError(Exception):
    """An error with a remedy, which people see as it is, without a traceback. Secrets in its URLs
    are removed here."""

    def __init__(self, message: str, *, remedy: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = shown(message)
        self.remedy = shown(remedy)
        self.field = field

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        what = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{self.message}{what}"
