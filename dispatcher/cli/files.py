"""`dispatcher files ID…`: what jobs left in storage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ailurus.output import Output
from dispatcher.cli.connection import connect


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import job_id

    parser.add_argument("ids", nargs="+", type=job_id, metavar="ID")


def main(args: Namespace, out: Output) -> int:
    """List the files, a line each."""
    client = connect(args)
    found = [(job_id, file) for job_id in args.ids for file in client.show(job_id).files]
    if out.as_json:
        for _, file in found:
            out.record(file)
    else:
        out.table(
            ["job", "file", "bytes", "adler32", "url"],
            ((job_id, f.name, f.size, f.adler32, f.url) for job_id, f in found),
        )
    return 0
