"""A batch system behind a real sshd on loopback: `prefix: [ssh, login]`, as shipped site files have
it.

Behind it stand commands that note how they were called, and answer what was recorded.
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harvester_edge.ports import Accepted, BatchError, Tag, Unclear
from plugins.batch.commands import runner
from plugins.batch.htcondor import HTCondor, HTCondorOptions
from plugins.batch.pbs import PBS, PBSOptions
from plugins.batch.slurm import Slurm, SlurmOptions
from tests.plugins.recordings import order
from tests.rig.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.field("K6")]
TAG = Tag("aabcdtag")
COMMANDS = {  # what is said to each, and its exit code
    "sbatch": ("17;far", 0), "squeue": (f"17|0|RUNNING|None|n1|{TAG}", 0),
    "sacct": ("17_1|COMPLETED|0:0|n1", 0), "scancel": ("", 0),
    "qsub": ("17[].pbs", 0), "qstat": ('{"Jobs": {}}', 0), "qselect": ("", 0), "qdel": ("", 0),
    "condor_submit": ("17.0 - 17.1", 0), "condor_q": ("", 0), "condor_history": ("", 0),
    "condor_rm": ("", 0),
}  # fmt: skip


class Login:
    """Another machine, as ssh sees it."""

    def __init__(self, place: Path, sshd: str) -> None:
        self.place = place
        self.bin = place / "bin"
        self.bin.mkdir()
        self.answer(**COMMANDS)
        for name in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
            subprocess.run(argv, check=True, timeout=30)
        (place / "user.pub").rename(place / "authorized")
        self.port = free_port()
        (place / "sshd.conf").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {place}/host\nPidFile none\n"
            f"AuthorizedKeysFile {place}/authorized\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nPermitRootLogin yes\nSetEnv PATH={self.bin}:/usr/bin:/bin\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's sshd locks itself in
        with (place / "sshd.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                [sshd, "-D", "-e", "-f", place / "sshd.conf"], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        known = (place / "host.pub").read_text().rsplit(" ", 1)[0]
        (place / "known").write_text(f"[127.0.0.1]:{self.port} {known}\n")
        self.prefix = [
            "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={place}/known", "-i",
            str(place / "user"), "-p", str(self.port), f"{getpass.getuser()}@127.0.0.1",
        ]  # fmt: skip
        end = time.monotonic() + 30
        while subprocess.run([*self.prefix, "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < end, (place / "sshd.log").read_text()
            assert self.daemon.poll() is None, (place / "sshd.log").read_text()

    def answer(self, **commands: tuple[str, int]) -> None:
        for name, (said, code) in commands.items():
            text = f'printf "%s\\0" {name} "$@" >> {shlex.quote(str(self.place))}/called\n'
            text += f"printf '%s\\n' {shlex.quote(said)}\n" if said else ""
            (self.bin / name).write_text(f"#!/bin/sh\n{text}exit {code}\n")
            (self.bin / name).chmod(0o755)

    def called(self) -> list[str]:
        return (self.place / "called").read_text().split("\0")[:-1]

    def close(self) -> None:
        self.daemon.terminate()
        self.daemon.wait(30)


@pytest.fixture
def login(tmp_path: Path, need: Any) -> Iterator[Login]:
    sshd = need("sshd", package="openssh-server", where="/usr/sbin")
    need("ssh", package="openssh-client")
    made = Login(tmp_path, sshd)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("plugin", "options"), [(Slurm, SlurmOptions), (PBS, PBSOptions), (HTCondor, HTCondorOptions)]
)
def test_commands_arrive_as_they_were_meant(login, plugin, options, tmp_path):
    place = tmp_path / "it's a $(place) with %T; and (1)"
    place.mkdir()
    far = plugin(options(prefix=login.prefix), place, "aabcd", timeout_s=30)
    asked = order(place, 2)
    outcome = far.submit(asked, TAG)
    assert isinstance(outcome, Accepted), outcome
    assert len(outcome.ids) == 2
    far.listing()
    far.find(TAG, list(outcome.ids.values()), 60)
    far.cancel(["17_0"])
    sent: list[str] = []
    run = runner(30)

    def note(argv: Any) -> Any:
        sent.extend(argv)
        return run(argv)

    here = plugin(options(), place, "aabcd", run=note)
    path = os.environ["PATH"]
    try:  # the same commands without any shell between
        os.environ["PATH"] = f"{login.bin}:{path}"
        before = login.called()
        here.submit(asked, TAG)
        here.listing()
        here.find(TAG, list(outcome.ids.values()), 60)
        here.cancel(["17_0"])
    finally:
        os.environ["PATH"] = path
    assert before == sent


def test_a_refusal_is_told_from_a_lost_connection(login, tmp_path):
    batch = Slurm(SlurmOptions(prefix=login.prefix), tmp_path, "aabcd", timeout_s=30)
    login.answer(sbatch=("", 255))
    assert isinstance(batch.submit(order(tmp_path), TAG), Unclear)  # as of an ssh that failed
    login.close()
    outcome = batch.submit(order(tmp_path), TAG)
    assert isinstance(outcome, Unclear), outcome
    with pytest.raises(BatchError, match="refused"):
        batch.listing()
