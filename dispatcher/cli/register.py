"""`dispatcher register ID…`: have outputs registered again that the catalogue of data refused."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id

    parser.add_argument("ids", nargs="+", type=job_id, metavar="ID")


def main(args: Namespace, out: Output) -> int:
    """Say how many outputs are tried again."""
    answer = connect(args, patience_s=0.0).reregister(args.ids)
    if out.as_json:
        out.document(answer)
    else:
        out.line(f"{answer.files} outputs are registered again: `dispatcher show` says how it went")
    return 0
