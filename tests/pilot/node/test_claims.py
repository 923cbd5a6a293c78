"""Two pilots of a user never hand out the same device, whatever becomes of one of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from pilot.node.claims import claim
from pilot.node.gpus import Gpu
from tests.rig.waiting import until

GPUS = tuple(Gpu(name=f"GPU-{nr}", number=nr, key=f"nvidia{nr}", files=()) for nr in range(4))
OTHER_PILOT = """
import sys
from pathlib import Path
from pilot.node.claims import claim
from tests.pilot.node.test_claims import GPUS
claims = claim(GPUS, 3, [Path(one) for one in sys.argv[1:]])
print(len(claims.gpus), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def bases(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "a", tmp_path / "b"]
    for base in made:
        base.mkdir(mode=0o777)
    return made


def own(base: Path) -> Path:
    return base / f"ailurus-gpus-{os.geteuid()}"


def test_a_second_pilot_gets_what_the_first_has_left(bases):
    first = claim(GPUS, 3, bases)
    second = claim(GPUS, None, bases)
    assert first.gpus == GPUS[:3]
    assert second.gpus == GPUS[3:]
    assert claim(GPUS, None, bases).gpus == ()
    first.close()
    assert claim(GPUS, None, bases).gpus == GPUS[:3]


def test_a_killed_pilot_gives_its_devices_back(bases):
    argv = [sys.executable, "-c", OTHER_PILOT, *map(str, bases)]
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "3\n"
        assert claim(GPUS, None, bases).gpus == GPUS[3:]
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert claim(GPUS, None, bases).gpus == GPUS[:3]


def test_claims_lie_where_only_their_user_can_enter(bases):
    claims = claim(GPUS, 1, bases)
    assert [own(base).stat().st_mode & 0o777 for base in bases] == [0o700, 0o700]
    claims.close()


def test_what_another_user_put_there_is_passed_over_and_pilots_still_meet(bases, tmp_path):
    """Before, between and after: a link, a file, a directory that others may write."""
    (tmp_path / "elsewhere").mkdir()
    own(bases[0]).symlink_to(tmp_path / "elsewhere")
    first = claim(GPUS, 2, bases)
    own(bases[0]).unlink()
    own(bases[0]).mkdir(mode=0o777)
    own(bases[0]).chmod(0o777)
    second = claim(GPUS, 1, bases)
    own(bases[0]).rmdir()
    third = claim(GPUS, None, bases)
    assert (first.gpus, second.gpus, third.gpus) == (GPUS[:2], GPUS[2:3], GPUS[3:])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_nothing_is_claimed_where_no_directory_can_be_had(tmp_path):
    assert claim(GPUS, None, [tmp_path / "missing"]).gpus == ()


def test_a_node_without_gpus_gets_no_directory(bases):
    assert claim((), None, bases).gpus == ()
    assert not own(bases[0]).exists()


def test_locks_are_not_left_to_programs_that_the_pilot_starts(bases):
    def free() -> bool:
        claims = claim(GPUS, None, bases)
        claims.close()
        return claims.gpus == GPUS

    claims = claim(GPUS, None, bases)
    with subprocess.Popen(["/bin/sleep", "60"], close_fds=False) as child:
        claims.close()
        # The kernel closes them in the child a moment after it has let us go on.
        until(free)
        child.kill()


def test_parts_of_a_device_are_given_to_several_pilots_and_never_more_than_the_whole(bases):
    halves = [claim(GPUS[:2], 1, bases, part=50) for _ in range(5)]
    assert [[gpu.name for gpu in one.gpus] for one in halves] == [
        ["GPU-0"], ["GPU-0"], ["GPU-1"], ["GPU-1"], [],
    ]  # fmt: skip
    halves[0].close()
    assert claim(GPUS[:2], 1, bases, part=60).gpus == ()
    with closing(claim(GPUS[:2], 1, bases, part=40)) as rest:
        assert [gpu.name for gpu in rest.gpus] == ["GPU-0"]
    for one in halves:
        one.close()


def test_a_pilot_that_shares_nothing_has_no_device_in_common_with_one_that_does(bases):
    part = claim(GPUS[:2], 1, bases, part=30)
    whole = claim(GPUS[:2], None, bases)
    assert [gpu.name for gpu in whole.gpus] == ["GPU-1"]
    with closing(claim(GPUS[:2], 2, bases, part=10)) as more:
        assert more.gpus == GPUS[:1]
        assert claim(GPUS[:2], None, bases).gpus == ()
    part.close()
    whole.close()
    with closing(claim(GPUS[:2], None, bases)) as all_of_them:
        assert all_of_them.gpus == GPUS[:2]


def test_parts_that_no_bytes_in_a_row_are_left_for_are_not_given(bases):
    first, middle, last = (claim(GPUS[:1], 1, bases, part=part) for part in (30, 40, 30))
    first.close()
    last.close()
    assert claim(GPUS[:1], 1, bases, part=40).gpus == ()
    with closing(claim(GPUS[:1], 1, bases, part=30)) as kept:
        assert kept.gpus == middle.gpus
    # One directory that nobody else can use changes nothing.
    (own(bases[0]) / "nvidia0").unlink()
    assert claim(GPUS[:1], 1, bases, part=40).gpus == ()
    middle.close()


@given(st.lists(st.integers(10, 90), min_size=1, max_size=12), st.integers(0, 1000))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_parts_are_asked_for_no_device_is_given_out_twice(bases, parts, seed):
    chance, held = random.Random(seed), []
    for part in parts:
        claims = claim(GPUS[:2], 1, bases, part=part)
        held.append((claims, part))
        if chance.random() < 0.3:
            held.pop(chance.randrange(len(held)))[0].close()
        for gpu in GPUS[:2]:
            assert sum(part for claims, part in held if gpu in claims.gpus) <= 100
    for claims, _ in held:
        claims.close()
