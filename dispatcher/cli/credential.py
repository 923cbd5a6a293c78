"""`dispatcher credential`: what your jobs show to storage, kept encrypted at the dispatcher."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ailurus.output import Output, clock
from dispatcher.cli.connection import connect
from dispatcher.cli.exits import DATA, NO_INPUT, USAGE, CommandError

LONGEST = 65_536


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("keep", "list", "forget"), nargs="?", default="list")
    parser.add_argument("names", nargs="*", metavar="NAME", help="as job files say: credentials")
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="keep: a token (JWT), a proxy (PEM), or keys of S3 as AWS's; - is stdin",
    )


def main(args: Namespace, out: Output) -> int:
    """Keep, list or forget one's credentials. Keeping one again renews it, also for jobs that
    run."""
    if args.action == "keep":
        return _keep(args, out)
    if args.action == "forget":
        return _forget(args, out)
    from ailurus.protocol.messages import CredentialRows

    rows = connect(args).call("credentials", answer=CredentialRows)
    if out.as_json:
        out.document(rows)
    else:
        out.table(
            ("name", "kind", "expires", "subject"),
            [
                (row.name, row.kind, clock(row.expires) if row.expires else "-", row.subject)
                for row in rows.credentials
            ],
        )
    return 0


def _keep(args: Namespace, out: Output) -> int:
    from ailurus.protocol.messages import CredentialRow, NewCredential

    if len(args.names) != 1 or not args.file:
        raise CommandError(
            USAGE,
            "which credential, and from where?",
            field="NAME, --file",
            remedy="dispatcher credential keep NAME --file FILE",
        )
    ask = NewCredential(name=args.names[0], secret=_read(args.file))
    row = connect(args).call("keep_credential", ask, answer=CredentialRow)
    if out.as_json:
        out.document(row)
    else:
        until = f"good until {clock(row.expires)}" if row.expires else "without an end"
        out.line(f"{row.kind} {row.name}: {row.subject or 'of nobody in particular'}, {until}")
    return 0


def _forget(args: Namespace, out: Output) -> int:
    from ailurus.protocol.messages import CredentialRows, Done, ForgetCredentials

    if not args.names:
        raise CommandError(
            USAGE, "which credentials?", field="NAME", remedy="see `dispatcher credential`"
        )
    client = connect(args)
    rows = client.call("credentials", answer=CredentialRows).credentials
    kept = {row.name for row in rows}
    if unknown := [name for name in args.names if name not in kept]:
        raise CommandError(
            DATA,
            f"you have no credential {', '.join(map(repr, unknown))}, and nothing was forgotten",
            field="NAME",
            remedy=f"yours are: {', '.join(sorted(kept)) or 'none'}",
        )
    ask = ForgetCredentials(names=tuple(args.names))
    done = client.call("forget_credentials", ask, answer=Done)
    if out.as_json:
        out.document(done)
    else:
        out.line(f"forgotten: {', '.join(args.names)}")
    return 0


def _read(name: str) -> str:
    """The text of a file, which is not shown in any error."""
    try:
        if name == "-":
            text = sys.stdin.read(LONGEST + 1)
        else:
            with Path(name).open(encoding="ascii") as file:
                text = file.read(LONGEST + 1)
    except OSError as error:
        raise CommandError(
            NO_INPUT, f"cannot read {name}: {error.strerror}", field="--file"
        ) from None
    except UnicodeDecodeError:
        raise CommandError(DATA, f"{name} holds no credential", field="--file") from None
    if not text.strip() or len(text) > LONGEST:
        raise CommandError(DATA, f"{name} is empty or too long for a credential", field="--file")
    return text
