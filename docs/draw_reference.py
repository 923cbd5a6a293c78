"""Draws the pages of reference from the code: `python docs/draw_reference.py DIRECTORY`.

Commands and options come from the programs' parsers, methods from `ailurus.Client`, requests from
the table of routes.
"""

from __future__ import annotations

import inspect
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

# What help is wrapped to; the parsers read it when they print.
os.environ["COLUMNS"] = "100"

from ailurus import Client
from ailurus.protocol.api import PREFIX, ROUTES
from dispatcher import cli as dispatcher
from harvester_edge import cli as edge
from pilot import options


def verbs(parser: ArgumentParser) -> Iterator[tuple[str, ArgumentParser]]:
    """The verbs of a parser by their whole names, those below others too."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to them
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                yield below.prog, below
                yield from verbs(below)


def of_program(title: str, program: ArgumentParser, filled: list[ArgumentParser]) -> str:
    parts = [f"# {title}", "As the program itself prints it with `--help`.", shown(program)]
    for parser in filled:
        for name, one in verbs(parser):
            depth = "##" if len(name.split()) == 2 else "###"
            parts += [f"{depth} `{name}`", shown(one)]
    return "\n\n".join(parts) + "\n"


def shown(parser: ArgumentParser) -> str:
    return f"```text\n{parser.format_help().strip()}\n```"


def only(parser: ArgumentParser, verb: str) -> ArgumentParser:
    """The parser with one verb: the others were not filled in."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action.choices, dict):
            for name in set(action.choices) - {verb}:
                del action.choices[name]
    return parser


def of_client() -> str:
    parts = ["# The Python client", "`from ailurus import Client`", inspect.getdoc(Client) or ""]
    parts += ["```python", f"Client{inspect.signature(Client)}", "```"]
    for name, method in vars(Client).items():
        if not name.startswith("_") and inspect.isfunction(method):
            signature = (
                str(inspect.signature(method)).replace("(self, ", "(").replace("(self)", "()")
            )
            parts += [f"## `{name}`", "```python", f"{name}{signature}", "```"]
            parts.append(inspect.getdoc(method) or "")
    return (
        "\n\n".join(parts).replace("```python\n\n", "```python\n").replace("\n\n```\n", "\n```\n")
        + "\n"
    )


def of_api() -> str:
    rows = "\n".join(
        f"| `{route.method} {PREFIX}{route.path}` | {route.summary} | {route.scope or 'nobody'} |"
        for route in ROUTES
    )
    return f"""# The native API

`GET {PREFIX}/openapi.json` of a dispatcher describes requests and answers whole, as OpenAPI 3.1. Errors are
RFC 9457 documents (`application/problem+json`) that name the field and a remedy.

| request | what it does | scope of the token |
|---|---|---|
{rows}
"""


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    pages = {
        "dispatcher": of_program(
            "`dispatcher`",
            dispatcher.parser_for(),
            [only(dispatcher.parser_for(verb), verb) for verb in dispatcher.VERBS],
        ),
        "harvester-edge": of_program(
            "`harvester-edge`",
            edge.parser_for(None),
            [only(edge.parser_for(verb), verb) for verb in edge.VERBS],
        ),
        "pilot": of_program("`pilot`", options.parser_for({}), []),
        "client": of_client(),
        "api": of_api(),
    }
    for name, text in pages.items():
        (directory / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
