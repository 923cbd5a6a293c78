"""`dispatcher token`: a token for a person, an edge or a pilot, into a file only you can read; and
its end."""

from __future__ import annotations

import base64
import json
import os
import secrets
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output, clock
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import CANNOT_CREATE, DATA, NO_INPUT, USAGE, CommandError

SHORT = {
    "read": "compute.read",
    "create": "compute.create",
    "modify": "compute.modify",
    "cancel": "compute.cancel",
    "admin": "ailurus.admin",
    "metrics": "ailurus.metrics",
    "pilot": "ailurus.pilot",
    "edge": "ailurus.edge",
    "relay": "ailurus.relay",
}


OF_SITE = ("ailurus.edge", "ailurus.relay")


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import some_time

    parser.add_argument("action", nargs="?", choices=("make", "revoke"), default="make")
    parser.add_argument(
        "--subject", metavar="NAME", help="whom the token is for; revoke: all that NAME has had"
    )
    parser.add_argument(
        "--scope",
        nargs="+",
        action="extend",
        default=[],
        metavar="WORD",
        help=f"what it may do: {', '.join(SHORT)}; default: read create modify cancel",
    )
    parser.add_argument("--site", metavar="NAME", help="the site of an edge's or a relay's token")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME",
        help="a group in which its jobs take turns (see serve --share); the first known one counts",
    )
    parser.add_argument("--lifetime", type=some_time, default=86400.0, metavar="1d")
    parser.add_argument("--out", metavar="FILE", help="written with mode 600")
    parser.add_argument("--file", metavar="FILE", help="revoke: the token in this file")
    parser.add_argument("--id", metavar="JTI", help="revoke: the token with this id")


def main(args: Namespace, out: Output) -> int:
    """Have a token made and keep it in --out; an older one there is replaced."""
    from ailurus.protocol.messages import NewToken, Token

    if args.action == "revoke":
        return _revoke(args, out)
    if not args.subject or not args.out:
        raise CommandError(
            USAGE,
            "whom is it for, and where to?",
            field="--subject, --out",
            remedy="--subject NAME --out FILE",
        )
    ask = NewToken(
        subject=args.subject,
        scopes=scopes(args.scope, args.site),
        lifetime_s=int(args.lifetime),
        groups=tuple(args.group),
    )
    token = connect(args).call("token", ask, answer=Token)
    _write(Path(args.out), token.token)
    if out.as_json:
        out.document(Token(token="", expires=token.expires))
    else:
        out.line(f"token for {args.subject} in {args.out}, good until {clock(token.expires)}")
    return 0


def _revoke(args: Namespace, out: Output) -> int:
    from ailurus.protocol.messages import Done, Revoke

    if sum(map(bool, (args.subject, args.file, args.id))) != 1:
        raise CommandError(
            USAGE, "which tokens?", field="--subject, --file or --id", remedy="give one"
        )
    token_id = _id_in(Path(args.file)) if args.file else args.id or ""
    ask = Revoke(subject=args.subject or "", token_id=token_id)
    done = connect(args).call("revoke", ask, answer=Done)
    if out.as_json:
        out.document(done)
    else:
        out.line(f"refused from now on: {args.subject or token_id}")
    return 0


def _id_in(path: Path) -> str:
    """The id of the token in a file; who holds it need not know what a JWT is."""
    try:
        claims = path.read_text(encoding="utf-8").strip().split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"]
    except OSError as error:
        raise CommandError(NO_INPUT, f"cannot read {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError):
        raise CommandError(DATA, f"{path} holds no token", field="--file") from None
    return str(found)


def scopes(words: list[str], site: str | None) -> tuple[str, ...]:
    """The scopes of the words given. Raises Fault if a site is named and none of them is of a site,
    or the other way round."""
    given = [SHORT.get(word, word) for word in words]
    if site is not None and not words:
        given = ["ailurus.edge"]
    if any(word in OF_SITE for word in given) != (site is not None):
        raise CommandError(
            USAGE,
            "the token of an edge or a relay names its site",
            field="--site",
            remedy="--scope edge --site NAME",
        )
    given = [f"{word}:{site}" if word in OF_SITE else word for word in given]
    return tuple(given or [SHORT[word] for word in ("read", "create", "modify", "cancel")])


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text + "\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CommandError(CANNOT_CREATE, f"cannot write {path}: {error.strerror}") from None
