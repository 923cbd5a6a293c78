"""Jobs in images, through a real dispatcher and real pilots, by bubblewrap and by Apptainer, as
root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import OutputFile
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Dispatcher, Field, processes_with
from tests.rig import services
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
NOBODY = 65534


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    made = Dispatcher(tmp_path_factory.mktemp("dispatcher"))
    yield made
    made.kill()


@pytest.fixture(params=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> int | None:
    """Whose pilots there are; None: this process's own."""
    if os.geteuid() != 0:
        pytest.skip("starts pilots of two users")
    return None if request.param == "root" else NOBODY


@pytest.fixture
def site(
    dispatcher: Dispatcher, user: int | None, busybox: Path, need: Callable[..., str]
) -> Iterator[Field]:
    """A site with images, in a directory that all users reach."""
    services.fuse_needed()
    need("squashfuse_ll", package="squashfuse", option="--apptainer")
    directory = Path(tempfile.mkdtemp(prefix="ailurus-test-"))
    directory.chmod(0o755)
    made = Field(dispatcher, directory, directory.name)
    images = directory / "images"
    images.mkdir()
    shutil.copy(busybox, images / "busybox.sif")
    (images / "busybox.sif").chmod(0o644)
    token = directory / "pilot.token"
    token.write_text(dispatcher.pilot_token.read_text("utf-8"))
    token.chmod(0o600)
    for path in (token, made.storage):
        os.chown(path, user or 0, user or 0)
    runs_by(made, "auto")
    yield made
    made.end()
    shutil.rmtree(directory)


def runs_by(site: Field, runtime: str, **more: Any) -> None:
    container = {"default": runtime, "images": [str(site.directory / "images")], **more}
    site.write_site(container=container)


def pilot_of(site: Field, user: int | None, *options: str) -> Any:
    told = {"AILURUS_TOKEN_FILE": str(site.directory / "pilot.token")}
    return site.pilot("--max-jobs", "1", *options, user=user, environment=told)


def left_of(site: Field) -> list[str]:
    """Processes and mounts, in any namespace, that belong to the site's pilots."""
    mark = site.directory.name
    found = [f"process {pid}" for pid in processes_with(mark)]
    for mounts in Path("/proc").glob("[0-9]*/mounts"):
        with suppress(OSError):
            if mark in mounts.read_text("utf-8", "replace"):
                found.append(str(mounts))
    return found


@pytest.mark.parametrize("runtime", ["bubblewrap", "apptainer", "auto"])
def test_a_job_runs_in_its_image_and_its_output_is_kept(
    site: Field, user: int | None, apptainer: Path, runtime: str
) -> None:
    runs_by(site, runtime, apptainer=str(apptainer.parent))
    job = site.submit(
        "busybox | head -n 1 > out.txt; id -u >> out.txt; ls /usr/bin >> out.txt",
        container=str(site.directory / "images/busybox.sif"),
        outputs=(OutputFile(name="out.txt"),),
    )
    pilot = pilot_of(site, user)
    detail = site.dispatcher.final(job, 60)
    assert detail.row.state is JobState.FINISHED, detail.row.diagnosis
    said = next((site.storage / "out").glob(f"{job}.*.out.txt")).read_text("utf-8").splitlines()
    assert said[0].startswith("BusyBox")
    assert said[1:] == [str(user or 0), "env"]
    assert [one.runtime for one in detail.attempts] == [
        "apptainer" if runtime == "apptainer" else "bubblewrap"
    ]
    assert pilot.ended() == 0
    assert until(lambda: not left_of(site))


@pytest.mark.parametrize("runtime", ["bubblewrap", "apptainer"])
def test_the_payloads_of_a_job_run_in_its_image_each_with_its_own_variables(
    site: Field, user: int | None, apptainer: Path, runtime: str
) -> None:
    runs_by(site, runtime, apptainer=str(apptainer.parent))
    items = [ItemSpec(command="ls /usr/bin; echo $AILURUS_ITEM; exec sleep 0.2") for _ in range(12)]
    client = site.dispatcher.client
    payloads = client.upload(uuid.uuid4().hex, items)
    image = str(site.directory / "images/busybox.sif")
    job = site.submit(container=image, payloads=payloads, cores=4)
    pilot = pilot_of(site, user)
    detail = site.dispatcher.final(job, 60)
    ends = [client.item(job, number) for number in range(12)]
    assert detail.row.state is JobState.FINISHED, ends
    said = [one.stdout_tail for one in ends]
    assert said == [f"env\n{number}\n" for number in range(12)]
    assert pilot.ended() == 0
    assert until(lambda: not left_of(site))


@pytest.mark.parametrize(
    ("runtime", "name", "code", "remedy"),
    [
        ("bubblewrap", "absent.sif", Code.IMAGE_NOT_FOUND, "is it there on other nodes"),
        ("bubblewrap", "cut.sif", Code.IMAGE_UNUSABLE, "build or copy it again"),
        ("bubblewrap", "damaged.sif", Code.IMAGE_UNUSABLE, "build or copy it again"),
        ("apptainer", "absent.sif", Code.IMAGE_NOT_FOUND, "is it there on other nodes"),
        ("apptainer", "cut.sif", Code.IMAGE_UNUSABLE, "build or copy it again"),
        ("apptainer", "damaged.sif", Code.IMAGE_UNUSABLE, "build or copy it again"),
    ],
)
def test_a_missing_or_damaged_image_fails_the_job_with_a_remedy(
    site: Field, user: int | None, apptainer: Path, runtime: str, name: str, code: Code, remedy: str
) -> None:
    runs_by(site, runtime, apptainer=str(apptainer.parent))
    images = site.directory / "images"
    whole = (images / "busybox.sif").read_bytes()
    (images / "cut.sif").write_bytes(whole[: len(whole) // 2])
    # the superblock is whole, and what it points to is noise
    start = whole.index(b"hsqs") + 96
    (images / "damaged.sif").write_bytes(whole[:start] + bytes([0xA5]) * (len(whole) - start))
    job = site.submit("true", container=str(images / name))
    pilot = pilot_of(site, user)
    detail = site.dispatcher.final(job, 60)
    assert detail.row.state is JobState.FAILED
    (attempt,) = detail.attempts
    assert attempt.code == code, detail
    assert remedy in attempt.remedy
    assert pilot.ended() == 0
    assert until(lambda: not left_of(site))


@pytest.mark.parametrize("runtime", ["bubblewrap", "apptainer"])
def test_a_killed_pilot_leaves_no_mount_and_no_process(
    site: Field, user: int | None, apptainer: Path, runtime: str
) -> None:
    runs_by(site, runtime, apptainer=str(apptainer.parent))
    job = site.submit("sleep 600", container=str(site.directory / "images/busybox.sif"))
    pilot = pilot_of(site, user)
    site.dispatcher.in_state(job, JobState.RUNNING)
    until(lambda: processes_with("sleep\x00600") and any("mounts" in one for one in left_of(site)))
    pilot.signal(signal.SIGKILL)
    assert pilot.ended() == -signal.SIGKILL
    assert until(lambda: not left_of(site))
    site.dispatcher.client.cancel([job])
