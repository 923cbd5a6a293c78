"""The payloads of the demo, run as a job runs them: by a command line, in a directory of their
own."""

from __future__ import annotations

import json
import os
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real  # needs the environment of scripts/setup --physics

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "z_peak"
RECORDED = "uproot-Zmumu.root"


@dataclass(frozen=True)
class Bench:
    """A work directory and the interpreter that has the physics packages."""

    python: Path
    work: Path

    def run(self, script: str, *args: object) -> subprocess.CompletedProcess[str]:
        return self._python(str(SCRIPTS / script), *map(str, args))

    def good(self, script: str, *args: object) -> list[str]:
        """The lines that a run printed which must end well."""
        done = self.run(script, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def bad(self, script: str, *args: object) -> str:
        """What a run said that must end with an error, and with a message instead of a
        traceback."""
        done = self.run(script, *args)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    def columns(self, file: str, tree: str = "events") -> dict[str, list[Any]]:
        code = (
            "import json, sys, uproot\n"
            "columns = uproot.open(sys.argv[1])[sys.argv[2]].arrays(library='np')\n"
            "print(json.dumps({name: values.tolist() for name, values in columns.items()}))\n"
        )
        return json.loads(self._checked("-c", code, file, tree))

    def histogram(self, file: str) -> list[float]:
        code = (
            "import json, sys, uproot\n"
            "print(json.dumps(uproot.open(sys.argv[1])['dimuon_mass'].values().tolist()))\n"
        )
        return json.loads(self._checked("-c", code, file))

    def pseudo(self, file: str, masses: str) -> None:
        """Write events whose masses are what the expression gives, muons in the middle of the
        cuts."""
        code = (
            f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
            "from pathlib import Path\n"
            "import numpy as np\n"
            "from dimuons import EVENTS, writing\n"
            "rng = np.random.default_rng(20101025)\n"
            f"mass = {masses}\n"
            "events = {name: np.ones(len(mass)) for name in EVENTS}\n"
            "events |= {'mass': mass, 'pt1': 40 * mass / mass, 'pt2': 40 * mass / mass}\n"
            "with writing(Path(sys.argv[1])) as out:\n"
            "    out.add_events(events)\n"
        )
        self._checked("-c", code, file)

    def _checked(self, *args: str) -> str:
        done = self._python(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _python(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-B", "-W", "error", *args],
            cwd=self.work,
            env={"HOME": str(self.work), "PATH": os.defpath},
            check=False,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="session")
def physics() -> Path:
    told = os.environ.get("AILURUS_PHYSICS_PYTHON")
    python = Path(told) if told else ROOT / ".venv-physics" / "bin" / "python"
    if python.exists():
        return python
    why = f"no physics interpreter at {python}: scripts/setup --physics, or AILURUS_PHYSICS_PYTHON"
    if told or os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture
def bench(physics: Path, tmp_path: Path) -> Bench:
    return Bench(physics, tmp_path)


@pytest.fixture(scope="module")
def made(physics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated files, the recorded data and its ntuple, made once for all tests."""
    bench = Bench(physics, tmp_path_factory.mktemp("z_peak"))
    for seed in (1, 2):
        bench.good("generate.py", "--seed", seed, "--events", 2000, "--out", f"mc_{seed}.root")
    bench.good("dataset.py", "--copy-to", ".")
    bench.good("ntuple.py", "--input", RECORDED, "--out", "data.root")
    return bench.work


def plot(data: object, mc: object) -> Sequence[object]:
    return "plot.py", "--data", data, "--mc", mc, "--png", "z.png", "--json", "z.json"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_events(bench):
    for seed, name in ((7, "a"), (7, "b"), (8, "c")):
        bench.good("generate.py", "--seed", seed, "--events", 50, "--out", f"{name}.root")
    a, b, c = (bench.columns(f"{name}.root") for name in "abc")
    assert a == b
    assert set(a["mass"]).isdisjoint(c["mass"])


def test_generation_tells_its_progress_and_ends_with_numbers(bench):
    *progress, last = bench.good("generate.py", "--seed", 3, "--events", 50, "--out", "mc.root")
    assert progress[0] == "events 3/50"
    assert progress[-1] == "events 50/50"
    assert json.loads(last)["events"] == 50
    assert json.loads(last)["seconds"] > 0
    assert [path.name for path in bench.work.iterdir()] == ["mc.root"]


def test_a_simulated_event_is_a_pair_of_opposite_muons_near_the_z(bench, made):
    events = bench.columns(made / "mc_1.root")
    assert all(q1 * q2 == -1 for q1, q2 in zip(events["charge1"], events["charge2"], strict=True))
    assert all(pt1 >= pt2 for pt1, pt2 in zip(events["pt1"], events["pt2"], strict=True))
    assert 90 < sorted(events["mass"])[1000] < 92
    (cross_section,) = bench.columns(made / "mc_1.root", "jobs")["cross_section_pb"]
    assert 1400 < cross_section < 1800  # leading order, 50 to 130 GeV


@pytest.mark.parametrize("args", [("--seed", 0), ("--seed", 10**9), ("--seed", 1, "--events", 0)])
def test_generation_refuses_numbers_that_mean_nothing(bench, args):
    assert str(args[-2]) in bench.bad("generate.py", *args, "--out", "mc.root")


@pytest.mark.slow
def test_merging_keeps_every_event_and_job(bench, made):
    parts = [made / "mc_1.root", made / "mc_2.root"]
    *progress, last = bench.good("merge.py", "--out", "merged.root", *parts)
    assert progress == ["files 1/2", "files 2/2"]
    assert json.loads(last)["events"] == 4000
    for tree in ("events", "jobs"):
        first, second = (bench.columns(part, tree) for part in parts)
        assert bench.columns("merged.root", tree) == {n: first[n] + second[n] for n in first}
    first, second = map(bench.histogram, parts)
    assert bench.histogram("merged.root") == [a + b for a, b in zip(first, second, strict=True)]
    assert sum(first) == 2000


def test_merging_refuses_to_count_a_seed_twice(bench, made):
    said = bench.bad("merge.py", "--out", "merged.root", made / "mc_1.root", made / "mc_1.root")
    assert "seed 1" in said
    assert list(bench.work.iterdir()) == []


def test_merging_refuses_recorded_data(bench, made):
    assert "data.root" in bench.bad("merge.py", "--out", "merged.root", made / "data.root")


@pytest.mark.parametrize("size", [0, 1000, -1])
def test_a_truncated_input_is_named_and_nothing_is_written(bench, made, size):
    bench.work.joinpath("cut.root").write_bytes((made / "mc_2.root").read_bytes()[:size])
    whole = made / "mc_1.root"
    for command in (
        ("merge.py", "--out", "merged.root", whole, "cut.root"),
        ("ntuple.py", "--input", "cut.root", "--out", "data.root"),
        plot(made / "data.root", "cut.root"),
    ):
        assert "cut.root" in bench.bad(*command)
    assert [path.name for path in bench.work.glob("[!.]*")] == ["cut.root"]


def test_a_damaged_input_is_named(bench, made):
    content = bytearray((made / "mc_2.root").read_bytes())
    content[len(content) // 2] ^= 0xFF
    bench.work.joinpath("hurt.root").write_bytes(content)
    assert "hurt.root" in bench.bad("merge.py", "--out", "merged.root", "hurt.root")


def test_a_missing_input_is_named(bench, made):
    assert "gone.root" in bench.bad(*plot(made / "data.root", "gone.root"))


def test_the_dataset_is_copied_whole(bench):
    (printed,) = bench.good("dataset.py", "--copy-to", "storage")
    assert printed == f"storage/{RECORDED}"
    content = (bench.work / printed).read_bytes()
    assert (len(content), f"{zlib.adler32(content):08x}") == (178_971, "3eaecc1d")
    (source,) = bench.good("dataset.py")
    assert Path(source).read_bytes() == content


def test_a_recorded_event_counts_once(bench, made):
    *_, last = bench.good("ntuple.py", "--input", made / RECORDED, "--out", "data.root")
    assert json.loads(last) == {"rows": 2304, "events": 500}
    recorded, ours = bench.columns(made / RECORDED), bench.columns("data.root")
    pairs = sorted(
        mass for kind, mass in zip(recorded["Type"], recorded["M"], strict=True) if kind == "GG"
    )
    assert len(set(zip(recorded["Run"], recorded["Event"], strict=True))) == len(ours["mass"])
    for mass in ours["mass"]:  # from momenta; CMS wrote the same into the file
        assert min(abs(mass - pair) for pair in pairs) < 1e-6


def test_the_z_is_found_in_the_recorded_data(bench, made):
    *_, last = bench.good(*plot(made / "data.root", made / "mc_1.root"))
    result = json.loads((bench.work / "z.json").read_text())
    assert result == json.loads(last)
    assert abs(result["mass_gev"] - 91.2) < 1.5
    assert 0.05 < result["mass_uncertainty_gev"] < 0.3
    assert abs(result["mass_in_mc_gev"] - 91.2) < 0.8
    assert 0.3 < result["chi2_ndf"] < 2
    assert result["n_data"] == 500
    assert (bench.work / "z.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("mass", [84.0, 91.2, 99.5])
def test_the_fit_finds_a_peak_where_we_put_it(bench, made, mass):
    peak = f"{mass} + rng.standard_cauchy(900) * 2.4955 / 2 + rng.normal(0, 1.5, 900)"
    bench.pseudo("pseudo.root", f"np.append({peak}, 60 + rng.exponential(30, 100))")
    bench.good(*plot("pseudo.root", made / "mc_1.root"))
    result = json.loads((bench.work / "z.json").read_text())
    assert abs(result["mass_gev"] - mass) < 4 * result["mass_uncertainty_gev"]
    assert abs(result["resolution_gev"] - 1.5) < 4 * result["resolution_uncertainty_gev"]
    assert result["mass_uncertainty_gev"] < 0.2


@pytest.mark.parametrize(
    ("masses", "reason"),
    [
        ("rng.uniform(60, 120, 1000)", "no significant peak"),
        ("rng.normal(91, 2, 20)", "too few"),
        ("np.full(500, 60.1)", "no convergence"),
    ],
)
def test_a_fit_that_means_nothing_is_an_error(bench, made, masses, reason):
    bench.pseudo("pseudo.root", masses)
    said = bench.bad(*plot("pseudo.root", made / "mc_1.root"))
    assert "pseudo.root" in said
    assert reason in said
    assert not list(bench.work.glob("z.*"))
