"""Images of a real registry, fetched by a real Apptainer into the cache of a node."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from pilot.ports import ContainerSetup, ImageCache, JobError
from plugins.container.cache import Cache
from tests.pilot.helpers import guarded
from tests.plugins import sifs
from tests.plugins.payloads import Job
from tests.rig.registry import Registry, running
from tests.rig.services import ROOT

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
ABSENT = f"sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory,
    need: Callable[..., str],
    apptainer: Path,
    busybox: Path,
) -> Iterator[Registry]:
    """With one image of a single layer, and one that is a SIF."""
    program = need("docker-registry", option="--apptainer", where=f"{ROOT}/build/apptainer/bin")
    directory = tmp_path_factory.mktemp("registry")
    root = sifs.rootfs(directory / "rootfs", shutil.which("busybox") or "")
    with running(program, directory) as made:
        made.push("atlas/layer", "v1", root)
        environment = {**os.environ, "HOME": str(directory), "SSL_CERT_FILE": str(made.ca)}
        sif = f"oras://{made.host}/atlas/sif:v1"
        subprocess.run([apptainer, "--silent", "push", busybox, sif], check=True, env=environment)
        yield made


@pytest.fixture
def setup(
    tmp_path: Path, registry: Registry, apptainer: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, object]]:
    """What the pilots of a node have; that registry is reached as their environment says."""
    monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca))
    hosts = tuple(f"{kind}://{registry.host}/atlas/" for kind in ("docker", "oras"))
    with guarded() as spawner:
        yield {
            "apptainer": str(apptainer.parent),
            "spawner": spawner,
            "cache": ImageCache(
                directory=str(tmp_path / "cache"), registries=hosts, most_bytes=1 << 30, most_s=1e6
            ),
        }


def pilot(tmp_path: Path, setup: dict[str, object]) -> Cache:
    return Cache(ContainerSetup(directory=str(tmp_path), user="somebody", **setup))


def never() -> None:
    """No job is to stop."""


@pytest.mark.parametrize("kind", ["docker", "oras"])
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_an_image_is_fetched_once_and_runs(
    kind: str, by: str, registry: Registry, setup: dict[str, object], tmp_path: Path
) -> None:
    name = f"atlas/{'layer' if kind == 'docker' else 'sif'}"
    end = ":v1" if by == "tag" else f"@{registry.digest(name, 'v1')}"
    reference = f"{kind}://{registry.host}/{name}{end}"
    image = pilot(tmp_path, setup).image(reference, never)
    assert pilot(tmp_path, setup).image(reference, never) == image
    assert [path.suffix for path in Path(image.path).parent.iterdir()] == [".sif"]
    own = tmp_path / "pilot"
    own.mkdir()
    job = Job(directory=own, name="bubblewrap", **setup)  # type: ignore[arg-type]
    assert job.run("cat /proc/sys/kernel/ostype", image=reference).exit_code == 0, job.said()
    assert job.stdout.read_text("utf-8") == "Linux\n"


@pytest.mark.parametrize(
    "reference", [f"docker/layer@{ABSENT}", "docker/layer:v2", f"oras/sif@{ABSENT}"]
)
def test_what_a_registry_does_not_have_is_tried_elsewhere_and_leaves_nothing(
    reference: str, registry: Registry, setup: dict[str, object], tmp_path: Path
) -> None:
    kind, _, name = reference.partition("/")
    with pytest.raises(JobError) as error:
        pilot(tmp_path, setup).image(f"{kind}://{registry.host}/atlas/{name}", never)
    assert error.value.code is Code.IMAGE_NOT_FOUND
    assert error.value.transient
    assert list((tmp_path / "cache/images").iterdir()) == []


def test_p12_an_image_that_unpacks_to_more_than_the_site_keeps_is_ended(
    registry: Registry, setup: dict[str, object], tmp_path: Path
) -> None:
    """A gigabyte of zeros is one megabyte of a registry's."""
    root = sifs.rootfs(tmp_path / "bomb", shutil.which("busybox") or "")
    (root / "zeros").touch()
    os.truncate(root / "zeros", 1 << 30)
    registry.push("atlas/bomb", "v1", root)
    small = replace(setup["cache"], most_bytes=100 << 20)  # type: ignore[type-var]
    began = time.monotonic()
    with pytest.raises(JobError) as error:
        pilot(tmp_path, {**setup, "cache": small}).image(
            f"docker://{registry.host}/atlas/bomb:v1", never
        )
    assert error.value.code is Code.IMAGE_UNUSABLE, error.value
    assert "container.cache_size" in error.value.remedy
    assert time.monotonic() - began < 20
    assert list((tmp_path / "cache/images").iterdir()) == []


def test_a_registry_of_another_authority_is_not_believed(
    registry: Registry, setup: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(JobError, match="certificate") as error:
        pilot(tmp_path, setup).image(f"docker://{registry.host}/atlas/layer:v1", never)
    assert error.value.code is Code.IMAGE_NOT_FOUND
