"""`pilot`: from the command line to a running pilot, and to an exit code that tells the truth."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from ailurus import entry

if TYPE_CHECKING:
    from pilot.options import Options
    from pilot.process.spawner import GuardedSpawner


def main() -> int:
    """The guardian is forked first: before threads, before what it does not need is imported."""
    entry.prepare()
    entry.import_msgspec()
    if sys.argv[1:2] == ["--mover"]:
        # How a frozen pilot starts the process of a transfer library.
        from pilot.process import mover

        mover.main()
    if sys.argv[1:2] == ["--print-completion"]:
        return _print_completion(sys.argv[1:])
    from pilot.process import spawner as spawners

    if {"-h", "--help", "--version"} & set(sys.argv[1:]):
        from pilot.options import parse

        parse(sys.argv[1:], os.environ)
    try:
        spawner = spawners.start()
    except OSError as error:
        from pilot.blame import Target, job_error

        return _fail(65, job_error(error, "the pilot cannot start its guardian", Target.NODE))
    if sys.argv[1:2] == ["--agent"]:
        from pilot.agents import agent

        return agent.main(sys.argv[2:], spawner)
    # What is imported stays: to look for garbage in it, again and again, is a tenth of the start.
    # The server begins with that again.
    gc.disable()
    from pilot.serve import HANDLED_SIGNALS

    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS - {signal.SIGHUP} | entry.hangup())
    try:
        return _main(spawner)
    finally:
        spawner.close()


def _print_completion(argv: list[str]) -> int:
    from ailurus.completion import completion, shell_of
    from ailurus.protocol.errors import AilurusError
    from pilot.options import parser_for

    try:
        sys.stdout.write(completion(parser_for(os.environ), shell_of(argv) or ""))
    except AilurusError as error:
        sys.stderr.write(f"pilot: {error}\n")
        return 64
    return 0


def _main(spawner: GuardedSpawner) -> int:
    from ailurus import logs
    from ailurus.protocol.errors import AilurusError
    from ailurus.wire.client import Unreachable
    from pilot.options import parse
    from pilot.process.kill import become_undumpable
    from pilot.upstream.link import Dismissed

    options = parse(sys.argv[1:], os.environ)
    become_undumpable()
    try:
        if options.log_file is not None:
            options.log_file.parent.mkdir(parents=True, exist_ok=True)
        logs.configure(options.log_file, level=options.log_level)
        return _serve(options, spawner)
    except Dismissed as error:
        return _fail(78 if error.stray else 68, error)
    except Unreachable as error:
        return _fail(71, error)
    except AilurusError as error:
        return _fail(65, error)
    except OSError as error:
        return _fail(66, error)
    except Exception as error:  # noqa: BLE001 - the last line: our bug, said as such
        logs.Log("pilot").error("pilot_failed", trace=True)
        return _fail(70, error)


def _fail(code: int, error: Exception) -> int:
    sys.stderr.write(f"pilot: {error}\n")
    return code


def _serve(options: Options, spawner: GuardedSpawner) -> int:
    from pilot import site as sites
    from pilot.start import recover, started

    site = sites.read(options.site) if options.site else sites.by_hand(options.storage)
    if options.recover:
        gc.enable()
        recover(options, site, spawner)
        return 0
    if options.probe:
        from pilot.probe import probe

        probe(options, site, spawner)
        return 0
    with started(options, site, spawner) as server:
        served = server.serve()
    if file := os.environ.get("AILURUS_LEFT_FILE"):
        _write_job_count(file, served.jobs)
    return exit_code(served.signal, str(served.ending), lost=server.broken)


def _write_job_count(file: str, jobs: int) -> None:
    """Tell the edge how many jobs there were: some servers do not."""
    with contextlib.suppress(OSError), open(file, "w", encoding="ascii") as left:  # noqa: PTH123
        left.write(f"{jobs}\n")


def exit_code(number: int, ending: str, *, lost: bool) -> int:
    """The exit code of a pilot that served."""
    if lost:
        return 70
    if number:
        return 128 + number
    return {"walltime": 81, "failed": 78}.get(ending, 0)


if __name__ == "__main__":
    sys.exit(main())
