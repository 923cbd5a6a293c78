"""The command `harvester-edge`: one file a verb. The verbs that look read the edge's book only."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ailurus import __version__, entry
from ailurus.completion import completion, shell_of
from ailurus.output import Output, clean
from ailurus.protocol.errors import AilurusError
from harvester_edge.cli.exits import CONFIGURATION, SOFTWARE, USAGE, code_of

# → harvester_edge/cli/VERB.py, its first line of help.
VERBS = {
    "run": "provision the site until told to stop",
    "tick": "one cycle, for cron",
    "status": "the site's workers in numbers, and whether its edge runs",
    "why": "why the site has the pilots it has: every limit, and the one that binds",
    "pause": "submit nothing more until `resume`; what runs goes on",
    "drain": "empty the site: submit nothing more, let every pilot finish what it has",
    "resume": "take back `pause` and `drain`",
    "metrics": "the site's figures as Prometheus text",
    "workers": "list workers, living ones first",
    "trace": "everything known about an intent, a batch job, a worker or a job",
    "relay": "let pilots without a route out reach the dispatcher, until told to stop",
    "lint": "all that is wrong with site files",
    "doctor": "whether the site would work: asks dispatcher, disks, batch system, storage, containers",
    "convert": "site files from Harvester's queue configuration and CRIC's queue data",
    "render": "the batch script that a worker of a slot would get",
}
CODES = """exit codes: 0 good · 64 usage · 65 no such thing · 69 the dispatcher does not answer ·
70 a bug · 73 an option's file cannot be written · 75 another edge has the site: try again later · 77 token refused · 78 site file or state
directory wrong · 130 Ctrl-C"""


class Parser(ArgumentParser):
    """argparse with sysexits' code for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser_for(*filled: str | None) -> ArgumentParser:
    """The parser; only the arguments of these verbs are filled in, so that a start imports one
    verb."""
    parser = Parser(
        prog="harvester-edge",
        description="Provisions workers at a site: observes, decides, acts.",
        epilog=CODES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ailurus {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        help="alone: print what bash, zsh or fish needs to complete this command",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, text in VERBS.items():
        one = verbs.add_parser(name, help=text, description=text.capitalize() + ".", epilog=CODES)
        if name in filled:
            one.add_argument(
                "--config",
                type=Path,
                required=name not in ("lint", "convert"),
                metavar="FILE",
                help="the site file",
            )
            one.add_argument("--json", action="store_true", help="one JSON document on stdout")
            importlib.import_module(f"harvester_edge.cli.{name}").arguments(one)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    if argv is None:
        entry.prepare()
        argv = sys.argv[1:]
    shell = shell_of(list(argv))
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS and shell is None:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"verbs: {', '.join(VERBS)}"
        sys.stderr.write(f"harvester-edge: no verb `{clean(verb)}` ({hint})\n")
        return USAGE
    try:
        if shell is not None:
            sys.stdout.write(completion(parser_for(*VERBS), shell))
            return 0
        args: Namespace = parser_for(verb).parse_args(argv)
        module = importlib.import_module(f"harvester_edge.cli.{args.verb}")
        code: int = module.main(args, Output(as_json=args.json))
        return code
    except AilurusError as error:
        sys.stderr.write(f"harvester-edge: {clean(str(error))}\n")
        return code_of(error)
    except KeyboardInterrupt:
        return 130
    # The reader has enough; nothing is left to flush into.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None:
            return _bug(error)
        remedy = " (is this the user whose edge it is?)" if error.errno in DENIED else ""
        where = clean(os.fsdecode(error.filename2 or error.filename))
        sys.stderr.write(f"harvester-edge: {where}: {error.strerror}{remedy}\n")
        return CONFIGURATION
    except Exception as error:  # noqa: BLE001 - the last line: a bug of ours is said, with its place
        return _bug(error)


DENIED = (errno.EACCES, errno.EPERM)


def _bug(error: Exception) -> int:
    import traceback

    traceback.print_exception(error)
    sys.stderr.write(f"harvester-edge: a bug: {type(error).__name__}: {clean(str(error))}\n")
    return SOFTWARE
