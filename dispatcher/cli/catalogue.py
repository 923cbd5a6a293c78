"""`dispatcher catalogue FILE DID`: what the catalogue of data knows of an identifier."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output, clock
from ailurus.protocol.did import Did
from dispatcher.catalogue import settings
from dispatcher.catalogue.link import Link
from dispatcher.catalogue.messages import (
    AddRule,
    Answer,
    Begin,
    Describe,
    Description,
    Faults,
    NotNow,
    Request,
)
from dispatcher.cli.exits import DATA, NO_INPUT, UNAVAILABLE, CommandError
from dispatcher.cli.words import some_time
from dispatcher.ports import CatalogueUnavailable


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="the catalogue, as for `serve --catalogue`"
    )
    parser.add_argument("did", metavar="SCOPE:NAME")
    parser.add_argument(
        "--rule",
        metavar="STORAGES",
        help="first have it kept at these storages (an RSE expression), and copied there if need be",
    )
    parser.add_argument(
        "--lifetime",
        type=some_time,
        metavar="30d",
        help="of that rule; without it: for ever",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def main(args: Namespace, out: Output) -> int:
    """Ask in a process of its own, as the dispatcher does, and show."""
    Did.parse(args.did)
    catalogue = settings.read(args.file)

    async def described() -> None:
        link = Link(Begin(kind=catalogue.kind, options=catalogue.options))
        try:
            if args.rule:
                lifetime_s = None if args.lifetime is None else int(args.lifetime)
                await _ask(link, AddRule(did=args.did, where=args.rule, lifetime_s=lifetime_s))
            _show(await _ask(link, Describe(did=args.did)), args.did, out)
        finally:
            await link.close()

    asyncio.run(described())
    return 0


async def _ask(link: Link, request: Request) -> Answer:
    """The answer, unless it is a refusal. Raises CommandError."""
    try:
        answer = await link.ask(request)
    except CatalogueUnavailable as away:
        raise CommandError(UNAVAILABLE, away.reason, remedy=away.remedy) from None
    match answer:
        case NotNow(reason=reason, remedy=remedy):
            raise CommandError(UNAVAILABLE, reason, remedy=remedy)
        case Faults(faults=(fault, *_)):
            raise CommandError(DATA, fault.reason, remedy=fault.remedy)
    return answer


def _show(answer: Answer, did: str, out: Output) -> None:
    """Raises CommandError."""
    if not isinstance(answer, Description) or answer.contents is None:
        raise CommandError(NO_INPUT, f"the catalogue knows nothing called {did}")
    if out.as_json:
        out.document(answer)
        return
    contents = answer.contents
    state = "" if contents.kind == "file" else ", open" if contents.open else ", closed"
    out.line(f"{did}: {contents.kind}{state}, files: {answer.files}")
    out.table(
        ["file", "bytes", "adler32", "where"],
        (
            (file.name, file.size, file.adler32, " ".join(answer.replicas.get(file.name, ())))
            for file in contents.files
        ),
    )
    if answer.files > len(contents.files):
        out.line(f"… and {answer.files - len(contents.files)} more")
    if answer.rules:
        out.line()
        out.table(
            ["rule", "where", "state", "there", "moving", "stuck", "until", "problem"],
            (
                (
                    one.rule_id, one.where, one.state, one.done, one.moving, one.stuck,
                    clock(one.expires) if one.expires else "for ever", one.problem,
                )
                for one in answer.rules
            ),
        )  # fmt: skip
