"""The command line. Options mean what they mean in PanDA's Pilot 3 where both have them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ailurus import __version__
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from ailurus.wire.credentials import Trust
from ailurus.wire.dialect import Dialect
from pilot.workdir import scratch

EXITS = """\
exit codes:
  0    all well: it drained, was idle, or had its jobs; jobs that failed are not the pilot's failure
  2    wrong options
  65   it cannot work here: site file, container or a part of the pilot is at fault
  66   the work directory or the spool cannot be made
  68   no valid credential: the dispatcher refuses the token
  70   a bug of the pilot, its guardian was killed, or the node gives it no more threads
  71   no dispatcher answers
  78   a stray: another pilot has this worker's place, or its time is over
  81   the lifetime was over before the payloads
  128+n  signal n ended it
signals:
  TERM HUP INT XCPU USR1 QUIT  payloads get TERM, after --grace KILL; then reports; the second one: now
  USR2                         take no more jobs, end when those here have ended
"""


class Options(Struct, frozen=True, kw_only=True):
    url: str
    queue: str
    site: Path | None = None
    slot: str = ""
    storage: Path | None = None
    token_file: Path | None = None
    bootstrap_file: Path | None = None
    trust: Trust = Trust()
    label: str = ""
    workdir: Path
    spool: Path | None = None
    lifetime_s: float | None = None
    empty_acquires: int | None = None
    idle_exit_s: float | None = None
    max_jobs: int | None = None
    recover: bool = False
    probe: bool = False
    head: bool = False
    """One pilot for all nodes of the allocation, an agent on each of the others."""
    image: str = ""
    """What the probe starts; empty: what it finds."""
    grace_s: float = 20.0
    dialect: Dialect | None = None
    """None: the server is asked."""
    heartbeat_s: float | None = None
    patience_s: float = 60.0
    log_file: Path | None = None
    log_level: str = "info"


def parser_for(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pilot",
        description="Acquires jobs of a queue from a dispatcher and runs them on this node.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_server(parser, env)
    _add_node(parser)
    _add_ends(parser)
    bundle = f" ({env['AILURUS_BUNDLE']})" if "AILURUS_BUNDLE" in env else ""
    parser.add_argument("--version", action="version", version=f"pilot {__version__}{bundle}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        help="alone: print what bash, zsh or fish needs to complete this command",
    )
    return parser


def _add_server(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    """Options about the dispatcher: where it is, how to trust it and how to register."""
    add = parser.add_argument
    add("--url", default=env.get("AILURUS_URL"), help="the dispatcher's address (AILURUS_URL)")
    add("-q", "--queue", required=True, help="the queue whose jobs to run")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a token to register with (AILURUS_TOKEN_FILE)",
    )
    add("--ca", metavar="FILE", help="who may sign the dispatcher's certificate (AILURUS_CA)")
    add("--pin", metavar="SHA256", help="of the dispatcher's certificate (AILURUS_PIN)")
    add("-j", "--label", default="", help="label of the pilot, kept with its worker")
    add(
        "--dialect",
        choices=["native", "v1", "legacy"],
        help="what the server speaks: v1 and legacy are PanDA's (default: ask it)",
    )
    add(
        "--heartbeat",
        type=_duration,
        metavar="TIME",
        help="how often to report to a PanDA server (30m); a dispatcher says it itself",
    )
    add(
        "--patience",
        type=_duration,
        default=60.0,
        metavar="TIME",
        help="for a silent dispatcher at the start (60 s)",
    )


def _add_node(parser: argparse.ArgumentParser) -> None:
    """Options about this node: what it offers and where files are."""
    add = parser.add_argument
    add(
        "--site",
        type=Path,
        metavar="FILE",
        help="the site file; without it only the machine speaks",
    )
    add(
        "--storage",
        type=Path,
        metavar="DIR",
        help="without a site file: where outputs go, and inputs come from (~/ailurus-data)",
    )
    add("--slot", default="", help="the slot of the site file (default: the one with this queue)")
    add("-a", "--workdir", type=Path, metavar="DIR", help="where jobs' directories are made")
    add("--spool", type=Path, metavar="DIR", help="where reports wait, shared by a node's pilots")
    add(
        "--recover",
        action="store_true",
        help="only send what dead pilots left in --spool, without registering",
    )
    add(
        "--probe",
        action="store_true",
        help="only try storage, catalogue and container of --site, and say what came of it",
    )
    add(
        "--head",
        action="store_true",
        help="be the pilot of all nodes that the batch system gave to this job; --workdir must be "
        "on a file system that they share",
    )
    add("--image", default="", metavar="IMAGE", help="of the container that --probe starts")
    add("--log", type=Path, metavar="FILE", help="log there instead of to stderr")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    add(
        "-w", "--workflow", choices=["generic"], default="generic", help="as Pilot 3; only this one"
    )


def _add_ends(parser: argparse.ArgumentParser) -> None:
    """Options that say when the pilot ends."""
    add = parser.add_argument
    add(
        "-l",
        "--lifetime",
        type=_duration,
        metavar="TIME",
        help="end after this long (seconds, 2h, …)",
    )
    add("-v", "--getjob-requests", type=int, metavar="N", help="end after N acquires without a job")
    add("--idle-exit", type=_duration, metavar="TIME", help="end after this long without a job")
    add("--max-jobs", type=int, metavar="N", help="end after N jobs")
    add("--grace", type=_duration, default=20.0, metavar="TIME", help="from TERM to KILL (20 s)")


def parse(argv: Sequence[str], env: Mapping[str, str]) -> Options:
    """Options from the command line, then the environment. Exits with 2 for wrong ones; raises
    AilurusError for a certificate that is none."""
    parser = parser_for(env)
    given = parser.parse_args(argv)
    if not given.url and not given.probe:
        parser.error("--url is missing: where is the dispatcher? (or set AILURUS_URL)")
    if given.recover and not given.spool:
        parser.error("--recover needs --spool: whose reports are to be sent?")
    if given.storage and given.site:
        parser.error("--storage is for a pilot without --site: the site file names its storage")
    bootstrap = env.get("AILURUS_BOOTSTRAP_FILE")
    token_file = given.token_file or env.get("AILURUS_TOKEN_FILE")
    return Options(
        url=given.url or "",
        queue=given.queue,
        site=given.site,
        slot=given.slot,
        storage=None if given.site else given.storage or _data(env),
        token_file=Path(token_file) if token_file else None,
        bootstrap_file=Path(bootstrap) if bootstrap and not given.token_file else None,
        trust=Trust.of_options(given.ca, given.pin, env),
        label=given.label,
        workdir=(given.workdir or scratch(env)).absolute(),
        spool=given.spool.absolute() if given.spool else None,
        lifetime_s=given.lifetime,
        empty_acquires=given.getjob_requests,
        idle_exit_s=given.idle_exit,
        max_jobs=given.max_jobs,
        recover=given.recover,
        probe=given.probe,
        head=given.head,
        image=given.image,
        grace_s=given.grace,
        dialect=given.dialect,
        heartbeat_s=given.heartbeat,
        patience_s=given.patience,
        log_file=given.log,
        log_level=given.log_level,
    )


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except AilurusError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _data(env: Mapping[str, str]) -> Path | None:
    """Where the outputs of a pilot started by hand go by default."""
    home = Path(env.get("HOME", ""))
    return home / "ailurus-data" if home.is_absolute() else None
