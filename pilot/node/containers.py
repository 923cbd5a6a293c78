"""The container that a site has its payloads in, on this machine."""

from __future__ import annotations

import os
import pwd
from functools import cache
from pathlib import Path

import plugins
from ailurus.protocol.units import duration_s, size_bytes
from pilot.ports import Container, ContainerSetup, ImageCache, Spawner
from pilot.site import Site


@cache
def user_name() -> str:
    """The user of payloads, by the node's accounts (which may be a directory of the site's) or by
    number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user{os.geteuid()}"


def container_of(site: Site, directory: Path, spawner: Spawner, jobs: str = "") -> Container:
    """The site's container; `auto`, where it names none. `jobs`: where the directories of jobs are,
    unless beneath `directory`. Raises AilurusError."""
    name = site.container.default or "auto"
    own = directory / "container"
    own.mkdir(mode=0o700)
    setup = ContainerSetup(
        directory=str(own),
        jobs=jobs,
        user=user_name(),
        software=site.software,
        show=site.container.show,
        bare=site.container.bare,
        network=site.container.network,
        user_namespaces=site.container.user_namespaces,
        images=site.container.images,
        apptainer=site.container.apptainer,
        cache=_image_cache(site, directory),
        spawner=spawner,
    )
    made: Container = plugins.load("container", name)(setup)
    return made


def _image_cache(site: Site, directory: Path) -> ImageCache | None:
    """Where images of registries are kept, if jobs may name any."""
    chosen = site.container
    if not chosen.registries:
        return None
    above = chosen.cache or directory.parent
    return ImageCache(
        directory=str(Path(above, f"ailurus-images-{os.geteuid()}")),
        registries=chosen.registries,
        most_bytes=size_bytes(str(chosen.cache_size)),
        most_s=duration_s(chosen.cache_age),
    )
