"""The start of agents, and of those that are lost once more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError
from pilot.agents.key_file import write_key
from pilot.node_ports import Allocation, Starter
from pilot.ports import ProcessEnd, ProcessSpec, Spawner
from pilot.process.children import own_command

PATIENCE_S = 30.0
"""For an agent to come; then its node is tried by itself. One that comes after all is turned away
if there is another."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
"""Between an agent's end, or its start that came to nothing, and the next start."""
_log = Log("pilot.agents.starting")


class _Try:
    """What is known of one node's starts."""

    def __init__(self) -> None:
        self.count = 0
        self.next_at = 0.0
        self.pause_s = FIRST_PAUSE_S
        self.here = False
        self.ended = False
        """Its starter has."""


class Starting:
    """Starts an agent on each node that has none. The agents read the allocation's key from a file,
    which is there only while some are awaited."""

    def __init__(
        self,
        allocation: Allocation,
        spawner: Spawner,
        argv: Sequence[str],
        key_file: Path,
        key: bytes,
        output: Path,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        """`output`: a file for what the starters and agents write. `later`: has what may take
        seconds done, in order, by another thread than that of `look`."""
        self._allocation, self._spawner, self._argv = allocation, spawner, list(argv)
        self._key_file, self._key, self._output = key_file, key, output
        self._later = later
        self._tries: dict[str, _Try] = {}
        self._key_wanted = False

    def look(self, missing: Sequence[str], now: float) -> None:
        """Start agents on the nodes of `missing` for which it is time; forget the others. Waits for
        no command and no file: agents are not heard meanwhile."""
        for name, one in self._tries.items():
            if name not in missing:
                one.here, one.pause_s = True, FIRST_PAUSE_S
        due = []
        for name in missing:
            one = self._tries.setdefault(name, _Try())
            if one.here:
                # It was lost: what ended it may end the next one.
                one.here, one.next_at = False, now + one.pause_s
            if one.ended:
                one.ended, one.next_at = False, min(one.next_at, now + one.pause_s)
            if now >= one.next_at:
                due.append(name)
        if due:
            self._start(due, now)
        elif not missing and self._key_wanted:
            self._key_wanted = False
            self._later(self._remove_key)

    def gone(self, name: str) -> None:
        """An agent of this node came, and went before it was ready."""
        if (one := self._tries.get(name)) is not None:
            one.ended = True

    def _start(self, names: list[str], now: float) -> None:
        for name in names:
            one = self._tries[name]
            one.count += 1
            one.ended = False
            one.next_at = now + max(PATIENCE_S, one.pause_s)
            one.pause_s = min(2 * one.pause_s, LONGEST_PAUSE_S)
        apart = any(self._tries[name].count > 1 for name in names)
        self._key_wanted = True
        self._later(partial(self._run_starters, names, apart=apart))

    def _run_starters(self, names: list[str], *, apart: bool) -> None:
        try:
            write_key(self._key_file, self._key)
            for starter in self._allocation.starters(self._argv, names, apart=apart):
                self._spawn(starter)
        except (AilurusError, OSError) as error:
            _log.warning("agents_not_started", nodes=names, what=str(error))

    def _spawn(self, starter: Starter) -> None:
        nodes = list(starter.nodes)
        _log.info("agents_started", nodes=nodes)

        def done(end: ProcessEnd) -> None:
            # What it says of the agents is no evidence: the next look sees who is missing.
            _log.info("starter_ended", nodes=nodes, exit_code=end.exit_code, errno=end.errno)
            for name in nodes:
                self._tries[name].ended = True

        order = ProcessSpec(
            argv=list(starter.argv),
            environment={**starter.environment, "AILURUS_ATTEMPT": "agents"},
            stdout=str(self._output),
            stderr=str(self._output),
        )
        self._spawner.spawn(order, done)

    def _remove_key(self) -> None:
        try:
            self._key_file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("key_not_removed", what=str(error))


def agent_command(
    head: str, key_file: Path, scratch: str, environ: Mapping[str, str]
) -> Sequence[str]:
    """An agent's command line: this pilot's own program, for a pilot at `head`, ADDRESS:PORT.
    `scratch`: the agent's directory on its node; empty: it finds one."""
    if file := environ.get("AILURUS_PILOT_FILE"):
        # It was unpacked where its user said, which may be a disk of this node: so does each agent.
        place = f"AILURUS_PILOT_DIR={environ.get('AILURUS_PILOT_DIR', '')}"
        program, *words = "/usr/bin/env", place, file
    else:
        program, *words = own_command("pilot")
    program = str(Path(program).absolute()) if "/" in program else shutil.which(program) or program
    words += ["--agent", "--head", head, "--key-file", str(key_file)]
    return [program, *words, *(["--workdir", scratch] if scratch else [])]
