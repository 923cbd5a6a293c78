"""What a job file says that is right, and perhaps not what is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice

from ailurus.protocol.job import InputFile, JobSpec
from ailurus.protocol.launchers import OPTIONS
from ailurus.protocol.url import Url

MOST_LOOKS = 1000
"""Paths that are looked for on this machine: it may be a slow file system."""


def paths_beside_parents(
    jobs: Sequence[JobSpec], base: str, exists: Callable[[str], bool]
) -> Iterator[str]:
    """A sentence for each input that is a path beneath `base`, where the job file lies, of a job
    that waits for others, if such a file is not there or a job of the file leaves one of that name:
    the short form looks as if it named what a parent leaves."""
    names = {file.name for job in jobs for file in job.outputs}
    places = {
        f"{_path(file.url).rstrip('/')}/{file.name}"
        for job in jobs
        for file in job.outputs
        if file.url.startswith("file:")
    }
    beneath = base.rstrip("/") + "/"
    waiting = (
        (job, path)
        for job in jobs
        if job.depends_on
        for path in map(_path_of, job.inputs)
        if path.startswith(beneath)
    )
    for job, path in islice(waiting, MOST_LOOKS):
        short = path.removeprefix(beneath)
        if short in names or path in places or not exists(_before_glob(path)):
            yield (
                f"job {job.name}: its input {short} is the file {path} on the node, not what a job "
                f"in depends_on leaves; if that is meant, write {{name: {short}}}"
            )


def unknown_launchers(jobs: Sequence[JobSpec]) -> Iterator[str]:
    """A sentence for each launcher that does not come with us: a site may have more."""
    for name in dict.fromkeys(job.launcher for job in jobs):
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            yield f"launcher {name} is none that every site has: {', '.join(OPTIONS)}{meant}"


def _path_of(file: InputFile) -> str:
    return _path(file.url) if file.url.startswith("file:") else ""


def _path(url: str) -> str:
    return Url.parse(url).path


def _before_glob(path: str) -> str:
    """A path, or the directory in which a glob begins."""
    plain, star, _ = path.partition("*")
    return plain.rpartition("/")[0] if star else path
