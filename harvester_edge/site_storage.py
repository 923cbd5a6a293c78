"""The part `storage` of a site file."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ailurus.protocol import storage_defaults
from ailurus.protocol.url import LONGEST_DIRECTORY
from harvester_edge.fields import AbsolutePath, Duration, Options, Size, Url


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a site file: a key that is not here is an error."""


Destination = Annotated[
    str,
    Meta(pattern=r"^([a-z][a-z0-9+.-]*://[^\x00-\x20]+|[/$~][^\x00-\x1f]*)?(?!\n)$",
         max_length=LONGEST_DIRECTORY,
         description="a URL such as https://host/directory/, an absolute path, or empty",
         examples=["https://storage.example/ailurus/"]),
]  # fmt: skip
Scheme = Annotated[
    str,
    Meta(pattern=r"^[a-z][a-z0-9+.-]*(?!\n)$", max_length=30,
         description="a URL's scheme: letters, digits, + . and -", examples=["davs"]),
]  # fmt: skip
TransferName = Annotated[
    str,
    Meta(pattern=r"^[a-z][a-z0-9_.-]*(?!\n)$", max_length=50,
         description="the name of a data or mover plugin", examples=["xrootd"]),
]  # fmt: skip


class Protocols(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """The schemes of the site's storage for each activity, the best first."""

    read_lan: tuple[Scheme, ...] = ()
    read_wan: tuple[Scheme, ...] = ()
    write_lan: tuple[Scheme, ...] = ()
    write_wan: tuple[Scheme, ...] = ()


class Storage(_Part, frozen=True, kw_only=True):
    """What jobs may name. `file:` URLs resolve beneath `roots`."""

    roots: tuple[AbsolutePath, ...] = ()
    http_allow: tuple[Url, ...] = ()
    http_proxy: Url | None = None
    """What the pilots' http transfers go through. `http_proxy` in a node's environment changes
    nothing."""
    default_output: Destination = ""
    """Where outputs go that a job gives no place, and logs."""
    logs: Literal["failed", "all", "none"] = storage_defaults.LOGS
    """Whose log.tgz goes to `default_output`: that of failed attempts and of jobs with `log:
    whole`, of all attempts, or of none."""
    allow: tuple[Url, ...] = ()
    """Prefixes of URLs of other schemes, beneath which jobs use the site's credentials:
    `root://xrootd.example//store/`."""
    alternative_output: Destination = ""
    """Where an output goes that its own place does not take."""
    rse: Annotated[str, Meta(max_length=255)] = ""
    """What Rucio calls this storage."""
    protocols: Protocols = Protocols()
    plugins: dict[Scheme, TransferName] = {}
    """Which plugin moves files of a scheme; left out: the usual one."""
    direct_read: bool = False
    """Whether a job may ask for the URLs of its inputs, to read them over the network."""
    parallel: Annotated[int, Meta(ge=1, le=64)] = storage_defaults.PARALLEL
    """How many files of a job a pilot itself moves at once, and for how many of its jobs at once a
    plugin that needs a library moves files: each of these has a process."""
    min_speed: Size = storage_defaults.MIN_SPEED
    """Bytes a second: a file may take `min_time` and its size at this speed, and never longer than
    `limits.staging`."""
    min_time: Duration = storage_defaults.MIN_TIME
    outage_tolerance: Duration = storage_defaults.OUTAGE_TOLERANCE
    """For how long a pilot keeps an output whose storage does not take it now, and tries it again;
    with `alternative_output` that is what it tries."""
    http: Options = {}
    """Options of the plugins; credentials are named by the path of their file."""
    rucio: Options = {}
    xrootd: Options = {}
    gfal2: Options = {}
    s3: Options = {}
    options: dict[TransferName, Options] = {}
    """Of other plugins, by name."""
