"""The demo: real programs on this machine, from the submission of jobs to a picture.

Called by `scripts/demo`. Everything it makes lies in one directory, `demo-run` beside the scripts.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ailurus.protocol.errors import AilurusError

sys.path.insert(0, str(Path(__file__).parent))
from jobs import show_result, submit, terminal, watch
from options import read_options
from services import (
    BIN,
    INTERRUPTIONS,
    batch_system,
    edge_token,
    keep,
    prepare,
    program,
    programs,
    site_file,
    stop_kept,
    token_file,
    undisturbed,
)
from setting import Setting, plain


class Stopped(Exception):
    """Ctrl-C, or a request to end."""


def stop(*_: object) -> None:
    undisturbed()
    raise Stopped


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    if options.stop:
        return stop_kept(options.dir)
    for number in INTERRUPTIONS:
        signal.signal(number, stop)
    try:
        return run(options)
    except Stopped:
        terminal.print("stopped; nothing is left running", style="yellow")
        return 130
    except AilurusError as error:
        terminal.print(f"demo: {error}", style="red", markup=False)
        return 1


def run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    stop_kept(options.dir)
    place = prepare(options.dir)
    with (
        setting_of(place, options.data) as setting,
        batch_system(place, options.batch) as found,
        programs(place, options.port, setting.serve) as (client, url),
    ):
        edge_token(place, url)
        edge = [BIN / "harvester-edge", "run", "--drain-at-exit", "--config"]
        edge.append(site_file(place, url, options.batch, setting.site))
        with program(place, "edge", edge, **found):
            ids = submit(place, url, options, setting)
            terminal.print(f"while it runs, its console: [b]{url}/console/[/b]")
            terminal.print(
                f"its sign-in asks for a token: the one in {token_file(place)}",
                highlight=False,
                soft_wrap=True,
            )
            try:
                watch(client, ids, options)
            except Stopped:
                # So that the pilots have nothing left to finish.
                client.cancel(ids)
                raise
            failed = show_result(client, ids[-1], place, setting) or setting.show(client, ids)
            terminal.print(ended(time.monotonic() - began, url if options.keep else None))
            if options.keep:
                keep(place)
                terminal.print("left running; end it with [b]scripts/demo --stop[/b]")
            return failed


@contextmanager
def setting_of(place: Path, data: str) -> Iterator[Setting]:
    if data == "files":
        yield plain(place)
        return
    # The plain demo does not wait for it.
    from experiment import experiment

    with experiment(place) as setting:
        yield setting


def ended(seconds: float, kept: str | None) -> str:
    """The last line: where the console is, if the dispatcher at that address is `kept`."""
    if kept is None:
        return f"all in {seconds:.0f} s, its console included; --keep leaves that running"
    return f"all in {seconds:.0f} s; console: [b]{kept}/console/[/b]"


if __name__ == "__main__":
    sys.exit(main())
