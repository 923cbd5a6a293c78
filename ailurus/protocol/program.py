"""Checks the program of a job: texts that no machine can start as they were meant. Pure."""

from __future__ import annotations

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec

LONGEST_WORD = 131_071
"""Bytes of one argument or one `NAME=value` that Linux hands to a program (MAX_ARG_STRLEN)."""
LONGEST_IN_ALL = 2_000_000
"""Bytes of all of them: a quarter of the usual stack of 8 MiB, less what a pilot adds."""
LONGEST_CHARACTER = 4
"""Bytes of one in UTF-8."""
_BOM = "\ufeff"


def check_program(spec: JobSpec) -> None:
    """Check a job's program. Raises AilurusError, with the field, if it can run nowhere as it was
    meant."""
    for field, text in (("script", spec.script), ("command", spec.command)):
        if not text:
            continue
        if text.startswith(_BOM):
            raise AilurusError(
                "it begins with a byte order mark, which no shell and no #! line takes",
                field=field,
                remedy="save it as UTF-8 without BOM",
            )
        if "\r" in text and _wrong_ends(field, text):
            raise AilurusError(
                "its lines end in CR LF, and Linux takes the CR as a part of each line",
                field=field,
                remedy="save it with LF line ends (`dos2unix`, or `sed -i 's/\\r$//'`)",
            )
    _check_lengths(spec)


def _wrong_ends(field: str, text: str) -> bool:
    first, feed, _ = text.partition("\n")
    return bool(feed and first.endswith("\r")) or (field == "command" and text.endswith("\r"))


def _check_lengths(spec: JobSpec) -> None:
    environment = spec.environment
    characters = len(spec.command)
    if environment:
        characters += sum(map(len, environment)) + sum(map(len, environment.values()))
    if LONGEST_CHARACTER * characters + 10 * len(environment) <= LONGEST_WORD:
        # Nearly always: all together are shorter than one of them may be.
        return
    sizes = {"command": len(spec.command.encode())}
    for name, value in environment.items():
        sizes[f"environment.{name}"] = len(name) + 1 + len(value.encode())
    for field, size in sizes.items():
        if size > LONGEST_WORD:
            raise AilurusError(
                f"it has {size} bytes, and Linux hands no program more than {LONGEST_WORD} in one "
                "piece",
                field=field,
                remedy="use `script`" if field == "command" else "put it into an input file",
            )
    if (whole := sum(sizes.values()) + 9 * len(sizes)) > LONGEST_IN_ALL:
        raise AilurusError(
            f"command and environment have {whole} bytes, and Linux hands no program more than "
            f"{LONGEST_IN_ALL}",
            field="environment",
            remedy="put the longest into input files",
        )


def interpreter(script: str) -> list[str]:
    """The program and its one argument of a script's `#!` line, as Linux reads it; empty: it has
    none."""
    if not script.startswith("#!"):
        return []
    return script[2:].partition("\n")[0].strip().split(None, 1)
