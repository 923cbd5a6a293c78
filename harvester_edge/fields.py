"""Types of single values in site files."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Slug = Annotated[
    str,
    Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(?!\n)$",
         description="a name of lower-case letters, digits and -", examples=["here"]),
]  # fmt: skip
QueueName = Annotated[
    str,
    Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+@=-]*(?!\n)$",
         description="a queue's name: letters, digits and _ . : + @ = -", examples=["physics"]),
]  # fmt: skip
Duration = (
    Annotated[
        str,
        Meta(pattern=r"^\s*(\d{1,9}(\.\d{1,9})?\s*[smhd]?|(\d{1,5}-)?\d{1,5}:\d\d:\d\d)\s*(?!\n)$",
             description="a duration: 90s, 15m, 2h, 1d or 1-12:00:00", examples=["15m"]),
    ]
    | Annotated[int, Meta(ge=0, le=999_999_999, description="seconds")]
)  # fmt: skip
Size = (
    Annotated[
        str,
        Meta(pattern=r"^\s*\d{1,15}(\.\d{1,9})?\s*([KMGTkmgt]i?)?[Bb]?\s*(?!\n)$",
             description="a size: 500M, 4GiB", examples=["4GiB"]),
    ]
    | Annotated[int, Meta(ge=1, le=10**15, description="MB")]
)  # fmt: skip
AbsolutePath = Annotated[
    str,
    Meta(pattern=r"^[/$~][^\x00-\x1f]*(?!\n)$", max_length=1000,
         description="an absolute path; $VARIABLE and ~ are expanded",
         examples=["/var/lib/ailurus"]),
]  # fmt: skip
Url = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9+.-]*://[^\x00-\x20]+(?!\n)$",
        description="a URL such as https://host:port",
        examples=["https://dispatcher.example:8443"],
    ),
]
Registry = Annotated[
    str,
    Meta(pattern=r"^(docker|oras)://[A-Za-z0-9][A-Za-z0-9._:/@-]*(?!\n)$", max_length=1000,
         description="what references to images begin with, to the last slash",
         examples=["docker://registry.example.org/atlas/"]),
]  # fmt: skip
Percent = Annotated[
    str,
    Meta(pattern=r"^(100|\d{1,2})%(?!\n)$", description="a percentage: 50%", examples=["50%"]),
]
Sha256 = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{64}(?!\n)$", description="a SHA-256: 64 digits 0-9 a-f",
         examples=["0123456789abcdef…"]),
]  # fmt: skip
Share = Annotated[float, Meta(ge=0, le=100)]
Number = Annotated[int, Meta(ge=0, le=1_000_000)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
Text = Annotated[str, Meta(max_length=2000)]
Options = dict[str, str | int | float | bool | list[str]]
"""What only a plugin knows."""
