"""`harvester-edge convert`: site files from Harvester's queue configuration and CRIC's queue data.

One queue's site goes to stdout, several into files of `--out`; the report goes to stderr.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ailurus.output import Output, clean
from ailurus.protocol.errors import AilurusError
from harvester_edge.convert.keys import Converted

if TYPE_CHECKING:
    from harvester_edge.convert import Read

# Far above the queue data of a whole experiment, which CRIC's server makes while one waits.
FETCH_S = 120.0
MOST_BYTES = 128 * 1024 * 1024


class ConvertAnswer(msgspec.Struct):
    """What `convert --json` prints: each site as data, and what was and was not carried over."""

    sites: list[Converted]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="JSON of Harvester (panda_queueconfig.json) or CRIC (data of queues and of storages), or its https:// address; of both: merged by queue",
    )
    parser.add_argument(
        "--ca",
        default="",
        metavar="FILE",
        help="who may sign that server's certificate; default: whom this machine trusts",
    )
    parser.add_argument(
        "--proxy",
        default="",
        metavar="URL",
        help="the way to that server; default: none, whatever the environment says",
    )
    parser.add_argument("--queue", default="", help="only this one")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write SITE.yaml of each queue into this directory; nothing is overwritten",
    )


def main(args: Namespace, out: Output) -> int:
    """Convert, and tell what was not carried over."""
    import yaml

    from harvester_edge.cli.exits import CANNOT_CREATE, NotFound
    from harvester_edge.convert import convert

    sites = [
        one
        for one in convert(*_queues(args.files, args.ca, args.proxy))
        if args.queue in ("", one.queue)
    ]
    if not sites:
        names = ", ".join(map(str, args.files))
        raise NotFound(f"no queue {args.queue or 'at all'} in {names}")
    if args.out is None and len(sites) > 1 and not out.as_json:
        names = ", ".join(one.queue for one in sites)
        raise NotFound(f"{len(sites)} queues: {names}", remedy="--out DIR for all, or --queue NAME")
    texts = [
        yaml.safe_dump(one.site, sort_keys=False, allow_unicode=True, width=100) for one in sites
    ]
    if args.out is not None and (why := _keep(args.out, sites, texts)):
        sys.stderr.write(f"harvester-edge: {clean(why)}\n")
        return CANNOT_CREATE
    for one, text in zip(sites, texts, strict=True):
        if not out.as_json:
            if args.out is None:
                out.raw(text)
            _report(one)
    if out.as_json:
        out.document(ConvertAnswer(sites))
    return 0


def _keep(place: Path, sites: Sequence[Converted], texts: Sequence[str]) -> str:
    """Write all files, or say why none can be: two queues' would be one, or it is somebody's
    already."""
    from harvester_edge.cli.exits import NotFound

    files: dict[Path, Converted] = {}
    for one in sites:
        other = files.setdefault(place / f"{one.site['site']}.yaml", one)
        if other is not one:
            both = f"queues {other.queue} and {one.queue} would both be site {one.site['site']}"
            raise NotFound(both, remedy="--queue NAME, and a DIR for each")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in files:
            if os.path.lexists(path):
                return f"{path} is there already (move it away, or name another DIR)"
        for path, text in zip(files, texts, strict=True):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        return f"cannot create {error.filename or place}: {error.strerror}"
    return ""


def _queues(sources: Sequence[str], ca: str, proxy: str) -> Read:
    """The queues and storages in files and at addresses. Raises NotFound for one that is of no use:
    it is no site file, whose faults are 78."""
    from harvester_edge.cli.exits import NotFound
    from harvester_edge.convert import read

    try:
        return read({source: _text(source, ca, proxy) for source in sources})
    except AilurusError as error:
        raise NotFound(error.message, remedy=error.remedy) from None


def _text(source: str, ca: str, proxy: str) -> str:
    """The text of a file or at an address. Raises AilurusError."""
    try:
        if not source.startswith(("https://", "http://")):
            return Path(source).read_text("utf-8")
        from ailurus import fetch

        with fetch.session(ca=ca, proxy=proxy) as session:
            body = fetch.document(session, source, timeout_s=FETCH_S, max_bytes=MOST_BYTES)
        return body.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise AilurusError(f"cannot read {source}: {error}") from None


def _report(one: Converted) -> None:
    lines = [f"queue {one.queue} → site {one.site['site']}"]
    lines += [f"  {it.key} → {it.to}: {it.value}" for it in one.carried]
    lines += [f"  not carried over: {it.key} = {it.value}: {it.why}" for it in one.lost]
    lines += [f"  to be confirmed: {', '.join(one.site['confirm'])}"]
    sys.stderr.write("".join(f"{clean(line)}\n" for line in lines))
