"""A payload that wants what is not its own: the pilot's token, reports that wait, what an edge and
other jobs have. In bubblewrap it gets nothing, as root and as an ordinary user, with the network
and without."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Dispatcher, Field
from tests.pilot.hostile import HOSTILE, library
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(120)]
NOBODY = 65534
COPY = r"""
    static const char *wanted[] = { WANTED, "/proc/self/environ", "/proc/self/cmdline" };
    const char *places[] = { "./loot", "LOOT" };
    for (int p = 0; p < 2; p++) {
        int into = open(places[p], O_WRONLY | O_CREAT | O_APPEND, 0666);
        if (into < 0) continue;
        dprintf(into, "loaded\n");
        for (unsigned w = 0; w < sizeof wanted / sizeof *wanted; w++) {
            static char text[1 << 16];
            int from = open(wanted[w], O_RDONLY);
            long n = from < 0 ? -1 : read(from, text, sizeof text);
            if (n > 0) (void)!write(into, text, n);
            if (from >= 0) close(from);
        }
        close(into);
    }
"""
ATTACK = r"""
exec > all.txt 2>&1
look() {{ cat {wanted}; ls -laR {private}; cat /proc/*/environ /proc/*/cmdline | tr '\0' '\n'; }}
look
find / -xdev -type f \( -name '*token*' -o -name 'secret*' -o -name '*.journal' -o -path '*spool*' \) \
    -not -path '/usr/*' -exec cat {{}} +
for process in /proc/[0-9]*; do
    ls -l $process/fd $process/cwd $process/root
    for wanted in {wanted} /etc/shadow; do cat $process/root$wanted; done
done
for way in -Urm -Urmn -UrmC; do
    unshare $way sh -c 'echo NAMESP""ACE made; mkdir -p m; mount -t cgroup2 none m && echo CGRO""UP mounted
        mount -t tmpfs none m && echo TMP""FS mounted; mount --bind / m; cat m{token} {wanted}'
done
mkdir -p m; mount -t cgroup2 none m && echo CGRO""UP mounted; mount -t proc none m && cat m/1/environ
mknod disk b 254 0 && head -c 100 disk
for target in {wanted}; do ln -sf $target link; cat link; cat < link; done
/usr/bin/python3 - <<'PYTHON'
import os
for name in os.listdir("/proc"):
    if name.isdecimal() and int(name) != os.getpid():
        try:
            print(open(f"/proc/{{name}}/mem", "rb").read(1))
        except OSError as error:
            print(error)
for number in range(3, 64):
    try:
        print("DESCR" "IPTOR", os.readlink(f"/proc/self/fd/{{number}}"))
    except OSError:
        pass
PYTHON
echo "looked everywhere"
"""


@pytest.fixture
def open_field(shared_dispatcher: Dispatcher) -> Iterator[Field]:
    """A field that other users reach: pytest closes its own directories to them whenever it
    starts."""
    directory = Path(tempfile.mkdtemp(prefix="ailurus-test-"))
    directory.chmod(0o755)
    made = Field(shared_dispatcher, directory, directory.name)
    yield made
    made.end()
    shutil.rmtree(directory)


@pytest.mark.field("S1", "A6")
@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_a_hostile_payload_reads_no_credential(
    open_field: Field, need: Callable[..., str], user: str, network: bool
) -> None:
    field = open_field
    if os.geteuid() != 0:
        pytest.skip("starts pilots of two users")
    number = None if user == "root" else NOBODY
    token = field.directory / "pilot.token"
    token.write_text(field.dispatcher.pilot_token.read_text())
    edge = field.directory / "edge.token"
    edge.write_text("canary-edge")
    loot = field.directory / "loot"
    loot.touch()
    for path in (token, edge, loot):
        path.chmod(0o600)
        os.chown(path, number or 0, number or 0)
    os.chown(field.storage, number or 0, number or 0)
    work = field.directory / "work"
    victim = field.submit(
        "echo canary-file > secret; sleep 60", environment={"SECRET": "canary-variable"}
    )
    told = {"AILURUS_TOKEN_FILE": str(token)}
    pilot = field.pilot("--max-jobs", "2", user=number, environment=told)
    field.dispatcher.in_state(victim, JobState.RUNNING)
    (secret,) = until(lambda: list(work.glob("ailurus-*/*/work/secret")))
    spool = work / f"ailurus-spool-{number or 0}"
    wanted = [token, edge, secret, *spool.iterdir(), f"/proc/{pilot.pid}/environ", field.site]
    words = " ".join(map(str, wanted))
    on_load = COPY.replace("WANTED", ", ".join(f'"{path}"' for path in wanted))
    library(need("gcc"), field.storage / "x.so", on_load.replace("LOOT", str(loot)))
    (field.storage / "x.so").chmod(0o644)
    hostile = field.submit(
        ATTACK.format(wanted=words, private=f"{work} {field.directory}", token=token)
        + "cat loot | tr '\\0' '\\n'",
        inputs=(InputFile(name="x.so", url=f"file://{field.storage}/x.so"),),
        outputs=(OutputFile(name="all.txt"),),
        environment=HOSTILE,
        network=network,
    )
    detail = field.dispatcher.final(hostile, 60)
    assert detail.row.state is JobState.FINISHED, detail.row.diagnosis
    said = next((field.storage / "out").glob(f"{hostile}.*.all.txt")).read_bytes().decode("latin-1")
    assert "looked everywhere" in said
    assert "loaded" in said  # the library was, by the payload's own programs
    keys = {
        key.decode()
        for path in spool.iterdir()
        for key in re.findall(rb'"report_key":"([^"]+)"', path.read_bytes())
    }
    assert keys  # the spool holds what would authorise a report
    secrets = {
        token.read_text(),
        "canary-edge",
        "canary-file",
        "canary-variable",
        "canary-environment",
    }
    found = {one[:30] for one in secrets | keys if one in said or one in loot.read_text()}
    assert not found
    for made in (
        "NAMESPACE made",
        "CGROUP mounted",
        "TMPFS mounted",
        "DESCRIPTOR",
        "AILURUS_TOKEN_FILE",
    ):
        assert made not in said
    assert loot.read_text() == ""  # nothing of the job's ran outside of its sandbox
    field.dispatcher.client.cancel([victim])
    assert pilot.ended() == 0
