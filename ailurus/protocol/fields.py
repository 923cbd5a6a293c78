"""Types of fields: the limits and forms that hold wherever a value of the kind is read."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Positive = Annotated[int, Meta(ge=1, le=100_000_000)]
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An id or an amount, as far as a database can count."""
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Amount = Annotated[int, Meta(ge=0, le=10**15)]
"""What one of several nodes tells: of a thousand together it is a `Whole` yet."""
_PLAIN = "letters, digits and _.:+@=-, with a letter, a digit or _ first"
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+@=-]*(?!\n)$",
        description=_PLAIN,
    ),
]
"""A name that is a file name, a URL segment and a shell word as it stands. `(?!\\n)`: before a last
line feed `$` matches too."""
_FILE = r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}"
_GLOB = r"[A-Za-z0-9_*][A-Za-z0-9_.:+@=*-]{0,199}"
FileName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=400,
        pattern=rf"^{_GLOB}(/{_GLOB})*/?(?!\n)$",
        description=f"{_PLAIN}; with / between names of directories, * for any characters",
    ),
]
"""The name of a job's file in its directory. With a `*` in it, or a `/` at its end, it stands for
many: see `ailurus.protocol.trees`."""
ResultName = Annotated[
    str,
    Meta(
        max_length=400,
        pattern=rf"^({_FILE}(/{_FILE})*)?(?!\n)$",
        description=f"{_PLAIN}; with / between names of directories",
    ),
]
"""Of one file in a job's directory; or blank."""
PLAIN_FILE = re.compile(rf"{_FILE}(/{_FILE})*")
"""The name of one file."""
Text = Annotated[str, Meta(pattern=r"^[^\x00]*$", description="anything but a NUL")]
"""What a process can be given: no argument and no variable of the environment holds a NUL."""
QueueName = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.:+@=-]*)?(?!\n)$",
        description=f"{_PLAIN}; or nothing",
    ),
]
Variable = Annotated[
    str,
    Meta(
        max_length=1000,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(?!\n)$",
        description="letters, digits and _, with no digit first",
    ),
]
Value = Annotated[Text, Meta(max_length=131_000)]
"""The value of a variable. Linux gives no program a longer one."""
LabelName = Annotated[
    str,
    Meta(
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*(?!\n)$",
        description="letters, digits and _./-, with a letter or a digit first",
    ),
]
LabelValue = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]*(?!\n)$",
        description="one line of text",
    ),
]
Adler32 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}(?!\n)$", description="8 hexadecimal digits, in lower case")
]
Md5 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{32}(?!\n)$", description="32 hexadecimal digits, in lower case")
]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+(?!\n)$",
        description="letters, digits and signs of ASCII, without spaces",
    ),
]
"""An id that a client made, or the name of a site or queue, on the wire."""
Label = Annotated[str, Meta(max_length=500)]
"""One short line."""
Moment = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Seconds since 1970, until the year 9999: what every program can show as a date."""
LongText = Annotated[str, Meta(max_length=8000)]
"""A diagnosis, or the end of a log."""
