"""The command `dispatcher`: one file a verb. Client verbs import no server."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from ailurus import __version__, entry
from ailurus.completion import shell_of
from ailurus.output import Output, clean
from ailurus.protocol.errors import AilurusError
from dispatcher.cli.exits import USAGE, CommandError, code_of, line_of

# → dispatcher/cli/VERB.py, its first line of help.
VERBS = {
    "init": "make a store, its keys and the first admin token",
    "serve": "run the dispatcher",
    "submit": "submit jobs from files",
    "status": "the whole system in numbers",
    "top": "numbers and jobs, live in the terminal",
    "jobs": "list jobs, newest first",
    "show": "all about one job",
    "failures": "what went wrong, where and how often",
    "usage": "what jobs asked for and what they took",
    "why": "why a job is where it is",
    "wait": "wait until jobs are final; exit as the payload did",
    "logs": "a job's output",
    "files": "what jobs left in storage",
    "get": "bring what jobs left in storage",
    "cancel": "cancel jobs",
    "retry": "submit final jobs anew",
    "undo": "bring back what a cancellation of many jobs stopped that waited",
    "priority": "let jobs that wait go before others",
    "move": "let jobs wait in another queue",
    "hold": "let jobs wait until they are released",
    "release": "release held jobs",
    "submissions": "what was submitted together, newest first",
    "submission": "what was submitted together: look at it, wait, cancel, retry what failed",
    "task": "submit a task, look at it, steer it: steps that turn items into jobs",
    "register": "have outputs registered again that the catalogue refused",
    "catalogue": "what the catalogue of data knows of an identifier",
    "queues": "queues and what waits in them",
    "workers": "workers and their heartbeats",
    "worker": "what ran on the nodes of one worker",
    "events": "what happened",
    "feedback": "tell the operators how it went",
    "credential": "keep what your jobs show to storage",
    "token": "make or revoke a token (administrators)",
    "keys": "change the keys that sign tokens",
    "backup": "copy queue and keys into a folder, while they are served",
    "restore": "make queue and keys from a back-up",
    "completion": "print what a shell needs to complete verbs and options",
    "doctor": "look for what is wrong with a dispatcher, or about to be",
}
SERVER = ("init", "serve", "keys", "backup", "restore", "doctor", "catalogue", "completion")
CODES = """exit codes: 0 good · 2 the job can never run as things are · 64 usage · 65 bad job file or field ·
66 no such file or job · 69 no dispatcher answers · 75 time-out · 77 no permission · 78 no token or
store · `wait` exits as the payload did"""


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
        prog="dispatcher",
        description="Holds the queue: what waits, who runs it, what came of it.",
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
            if name not in SERVER:
                common(one)
            importlib.import_module(f"dispatcher.cli.{name}").arguments(one)
    return parser


def common(parser: ArgumentParser) -> None:
    """Add what all client verbs take."""
    parser.add_argument("--url", help="the dispatcher's address (AILURUS_URL)")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with a token (AILURUS_TOKEN_FILE, then WLCG token discovery)",
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        help="who may sign the dispatcher's certificate, in PEM (AILURUS_CA)",
    )
    parser.add_argument(
        "--pin",
        metavar="SHA256",
        help="of the dispatcher's certificate, if nobody signs (AILURUS_PIN)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout; streams: a line each")


def _strange(word: str) -> bool:
    """Whether a word has bytes that are no text."""
    return any("\ud800" <= one <= "\udfff" for one in word)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    if argv is None:
        entry.prepare()
        argv = sys.argv[1:]
    if (shell := shell_of(list(argv))) is not None:
        # As the other programs say it, which have no verb for it.
        argv = ["completion", shell]
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"verbs: {', '.join(VERBS)}"
        sys.stderr.write(f"dispatcher: no verb `{clean(verb)}` ({hint})\n")
        return USAGE
    args: Namespace = parser_for(verb).parse_args(argv)
    as_json = getattr(args, "json", False)
    try:
        module = importlib.import_module(f"dispatcher.cli.{args.verb}")
        code: int = module.main(args, Output(as_json=as_json))
        return code
    except AilurusError as error:
        further = error.further if isinstance(error, CommandError) else []
        for one in (error, *further):
            sys.stderr.write(line_of(one, as_json=as_json))
        return code_of(error)
    except UnicodeEncodeError:
        if not any(map(_strange, argv)):
            raise
        sys.stderr.write(
            "dispatcher: an argument is not UTF-8 text (only a file may be called so)\n"
        )
        return USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has enough; nothing is left to flush into.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
