"""`dispatcher feedback`: how it went, for the operators; and what they were told."""

from __future__ import annotations

import uuid
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ailurus.output import Output, clock
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import OK, USAGE, CommandError

if TYPE_CHECKING:
    from ailurus.protocol.messages import FeedbackRow
    from ailurus.wire.client import Client

FACES = {1: ":((", 2: ":(", 3: ":|", 4: ":)", 5: ":))"}
_MOODS = {face: mood for mood, face in FACES.items()} | {str(mood): mood for mood in FACES}
LONGEST = 1000
CSV = ("at", "user", "mood", "text", "about", "version")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="+",
        metavar="MOOD [TEXT…] | list",
        help="1 (it does not work for me) to 5 (it does), or ':((' to ':))', and a line of text; "
        "`list`: what users said, for administrators",
    )
    parser.add_argument("--about", default="", metavar="WHAT", help="as in --about 'why 12'")
    parser.add_argument("--csv", action="store_true", help="list for a spreadsheet")


def main(args: Namespace, out: Output) -> int:
    """Tell the operators, or list what they were told."""
    first, *rest = args.words
    if first == "list" and not rest:
        return _list(args, out)
    if first not in _MOODS:
        raise CommandError(
            USAGE,
            f"{first!r} is no mood",
            field="MOOD",
            remedy="dispatcher feedback 4 'the reason was clear'; 1 is worst, 5 is best",
        )
    give(connect(args), _MOODS[first], " ".join(rest), args.about)
    if not out.as_json:
        out.line("Thank you: the operators of this dispatcher can read it.")
    return OK


def give(client: Client, mood: int, text: str, about: str) -> None:
    """Tell the operators. Raises AilurusError."""
    from ailurus.protocol.messages import Done, GiveFeedback

    if len(text) > LONGEST:
        raise CommandError(
            USAGE, f"{len(text)} characters", field="TEXT", remedy=f"at most {LONGEST}"
        )
    ask = GiveFeedback(request_id=uuid.uuid4().hex, mood=mood, text=text, about=about)
    client.call("give_feedback", ask, answer=Done)


def _list(args: Namespace, out: Output) -> int:
    from ailurus.protocol.messages import FeedbackPage, FeedbackQuery

    client, after = connect(args), 0
    rows: list[FeedbackRow] = []
    while True:
        page = client.call("feedback", FeedbackQuery(after=after), answer=FeedbackPage)
        rows += page.feedback
        if page.next is None:
            break
        after = page.next
    if out.as_json:
        out.document(FeedbackPage(feedback=tuple(rows)))
    elif args.csv:
        out.csv(CSV, (_cells(row) for row in rows))
    else:
        out.table(
            ["when", "user", "mood", "about", "text"],
            ((clock(r.at), r.user, FACES.get(r.mood, r.mood), r.about, r.text) for r in rows),
        )
    return OK


def _cells(row: FeedbackRow) -> tuple[object, ...]:
    at = datetime.fromtimestamp(row.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return at, row.user, row.mood, row.text, row.about, row.version
