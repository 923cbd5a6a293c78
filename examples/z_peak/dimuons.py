"""What the scripts of this folder share: the layout of a ROOT file of dimuon events.

    events        a row an event: invariant mass; pt, eta, phi and charge of the two muons, the one
                  of higher pt first; weight (1 for recorded data)
    jobs          a row a generation job: seed, events, sum of weights, cross section (empty for
                  recorded data)
    dimuon_mass   histogram of the mass of all events, for a quick look

Energies, momenta and masses are in GeV with c = 1, angles in rad, cross sections in pb.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uproot
from numpy.typing import ArrayLike, NDArray

# GeV; S. Navas et al. (Particle Data Group), Review of Particle Physics, PRD 110 (2024) 030001.
MUON_MASS = 0.1056583755

EVENTS = {
    "mass": "f8",
    "pt1": "f4",
    "eta1": "f4",
    "phi1": "f4",
    "charge1": "i4",
    "pt2": "f4",
    "eta2": "f4",
    "phi2": "f4",
    "charge2": "i4",
    "weight": "f8",
}
JOBS = {
    "seed": "i8",
    "events": "i8",
    "sum_of_weights": "f8",
    "cross_section_pb": "f8",
    "cross_section_error_pb": "f8",
}
MASS_EDGES = np.linspace(0, 200, 401)  # GeV; heavier pairs are counted in the last bin
CHUNK = 200_000  # rows in memory at a time

Columns = Mapping[str, ArrayLike]
Array = NDArray[Any]


def dimuons(pt: Array, eta: Array, phi: Array, charge: Array, weight: Array) -> dict[str, Array]:
    """The columns of `events` from arrays of shape (event, muon), the muons in any order."""
    p = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    energy = np.sqrt((p**2).sum(axis=0) + MUON_MASS**2)
    mass = np.sqrt(energy.sum(axis=1) ** 2 - (p.sum(axis=2) ** 2).sum(axis=0))
    muons = {"pt": pt, "eta": eta, "phi": phi, "charge": charge}
    order = np.argsort(-pt, axis=1)
    sides = {
        f"{name}{side + 1}": np.take_along_axis(values, order, axis=1)[:, side]
        for name, values in muons.items()
        for side in (0, 1)
    }
    return {"mass": mass, **sides, "weight": weight}


def chunks(path: Path, tree: str, columns: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Columns of a tree, some rows at a time. A file that cannot be read ends the program."""
    try:
        with uproot.open(path, object_cache=None, array_cache=None) as file:
            size, wanted = path.stat().st_size, file.file.fEND
            if size != wanted:
                raise ValueError(f"has {size} bytes, its header says {wanted}")
            yield from file[tree].iterate(list(columns), step_size=CHUNK, library="np")
    except Exception as error:  # broken bytes make a parser raise anything, RecursionError included
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SystemExit(f"error: cannot read {path}: {reason[:300]}") from error


class Writer:
    """The file under way; `events` and `jobs` may come in any number of pieces."""

    def __init__(self, file: uproot.WritableDirectory) -> None:
        self._file = file
        self._histogram = np.zeros(len(MASS_EDGES) - 1)
        for name, columns in (("events", EVENTS), ("jobs", JOBS)):
            file.mktree(name, columns)

    def add_events(self, events: Columns) -> None:
        self._extend("events", EVENTS, events)
        mass = np.clip(events["mass"], MASS_EDGES[0], MASS_EDGES[-1])
        self._histogram += np.histogram(mass, MASS_EDGES, weights=events["weight"])[0]

    def add_jobs(self, jobs: Columns) -> None:
        self._extend("jobs", JOBS, jobs)

    def finish(self) -> None:
        self._file["dimuon_mass"] = self._histogram, MASS_EDGES

    def _extend(self, tree: str, types: Mapping[str, str], columns: Columns) -> None:
        self._file[tree].extend({name: np.asarray(columns[name], types[name]) for name in types})


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write under another name until all is done: a file called `path` is a whole one."""
    part = path.with_name(path.name + ".part")
    try:
        with uproot.recreate(part) as file:
            writer = Writer(file)
            yield writer
            writer.finish()
        part.replace(path)
    except OSError as error:
        raise SystemExit(f"error: cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
