"""A payload that wants what is not its own: the pilot's token, reports that wait, what an edge and
other jobs have. In bubblewrap and in Apptainer it gets nothing, as root and as an ordinary user,
with the network and without."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Field, Pilot
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
for name in kernel/sem kernel/shmmax kernel/hostname fs/mqueue/msg_max; do
    echo 1 > /proc/sys/$name && echo SYS""CTL written
done
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


class Victim(Struct, frozen=True):
    """A pilot that runs somebody's job, and what of both is nobody else's."""

    job: int
    pilot: Pilot
    spool: Path
    paths: list[Path]
    """Files whose text no payload may read."""
    loot: Path
    """Where a program of the payload's writes if it runs outside of its sandbox."""

    def secrets(self) -> set[str]:
        """What nothing of the payload's may know."""
        texts = {path.read_text("utf-8").strip() for path in self.paths[:3]}
        keys = {
            key.decode()
            for path in self.spool.iterdir()
            for key in re.findall(rb'"report_key":"([^"]+)"', path.read_bytes())
        }
        assert keys  # the spool holds what would authorise a report
        return texts | keys | {"canary-variable", "canary-environment"}


def victim(field: Field, user: int | None, image: str) -> Victim:
    token, edge, loot = (field.directory / name for name in ("pilot.token", "edge.token", "loot"))
    token.write_text(field.dispatcher.pilot_token.read_text())
    edge.write_text("canary-edge")
    loot.touch()
    for path in (token, edge, loot):
        path.chmod(0o600)
    for path in (token, edge, loot, field.storage):
        os.chown(path, user or 0, user or 0)
    job = field.submit(
        "echo canary-file > secret; sleep 60",
        environment={"SECRET": "canary-variable"},
        container=image,
    )
    told = {"AILURUS_TOKEN_FILE": str(token)}
    pilot = field.pilot("--max-jobs", "2", user=user, environment=told)
    field.dispatcher.in_state(job, JobState.RUNNING)
    work = field.directory / "work"

    def written() -> list[Path]:
        return [path for path in work.glob("ailurus-*/*/work/secret") if path.stat().st_size]

    (secret,) = until(written)
    spool = work / f"ailurus-spool-{user or 0}"
    return Victim(job, pilot, spool, [token, edge, secret], loot)


def attack(field: Field, need: Callable[..., str], of: Victim, **job: Any) -> str:
    """Run the hostile payload beside its victim; what it found."""
    environ = Path(f"/proc/{of.pilot.pid}/environ")
    wanted = [*of.paths, *of.spool.iterdir(), environ, field.site]
    words = " ".join(map(str, wanted))
    on_load = COPY.replace("WANTED", ", ".join(f'"{path}"' for path in wanted))
    library(need("gcc"), field.storage / "x.so", on_load.replace("LOOT", str(of.loot)))
    (field.storage / "x.so").chmod(0o644)
    private = f"{field.directory / 'work'} {field.directory}"
    hostile = field.submit(
        ATTACK.format(wanted=words, private=private, token=of.paths[0])
        + "cat loot | tr '\\0' '\\n'",
        inputs=(InputFile(name="x.so", url=f"file://{field.storage}/x.so"),),
        outputs=(OutputFile(name="all.txt"),),
        environment=HOSTILE,
        **job,
    )
    detail = field.dispatcher.final(hostile, 60)
    assert detail.row.state is JobState.FINISHED, detail.row.diagnosis
    assert detail.attempts[0].runtime == ("apptainer" if job["container"] else "bubblewrap")
    return next((field.storage / "out").glob(f"{hostile}.*.all.txt")).read_bytes().decode("latin-1")


@pytest.fixture(params=["bubblewrap", "apptainer"])
def image(request: pytest.FixtureRequest, open_field: Field) -> str:
    """The image of the field's jobs; none in bubblewrap, whose jobs have the node's system.

    That of Apptainer is the node's /usr, for the payload to have all its tools.
    """
    if request.param == "bubblewrap":
        return ""
    program = request.getfixturevalue("apptainer")
    root = open_field.directory / "images" / "system"
    for name in ("dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    open_field.write_site(
        container={
            "default": "apptainer",
            "apptainer": str(program.parent),
            "images": [str(root.parent)],
            "show": ["/usr"],
        }
    )
    return str(root)


@pytest.mark.field("S1", "A6")
@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_a_hostile_payload_reads_no_credential(
    open_field: Field, need: Callable[..., str], user: str, network: bool, image: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("starts pilots of two users")
    of = victim(open_field, None if user == "root" else NOBODY, image)
    said = attack(open_field, need, of, network=network, container=image)
    assert "looked everywhere" in said
    assert "loaded" in said  # the library was, by the payload's own programs
    loot = of.loot.read_text()
    assert not {one[:30] for one in of.secrets() if one in said or one in loot}
    for made in (
        "NAMESPACE made",
        "CGROUP mounted",
        "TMPFS mounted",
        "SYSCTL written",
        "DESCRIPTOR",
        "AILURUS_TOKEN_FILE",
    ):
        assert made not in said
    assert loot == ""  # nothing of the job's ran outside of its sandbox
    open_field.dispatcher.client.cancel([of.job])
    assert of.pilot.ended() == 0
